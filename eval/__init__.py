"""Measurements on top of the engine."""
