"""Indexes in parts (shards), on one machine or on many."""
