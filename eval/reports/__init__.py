"""Runs for people: reports, comparisons, charts, and pages for the server."""
