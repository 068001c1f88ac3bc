"""Geometric verification of two photos: matching, RANSAC, and what counts as proof."""
