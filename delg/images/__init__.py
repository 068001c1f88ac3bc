"""Photos: found on disk, decoded upright, resized into a pyramid."""
