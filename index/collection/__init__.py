"""What an index says of its own photos, all together."""
