"""Matches drawn, and query results as self-contained HTML."""
