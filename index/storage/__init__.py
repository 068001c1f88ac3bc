"""What an index is on disk, and the order in which it is committed."""
