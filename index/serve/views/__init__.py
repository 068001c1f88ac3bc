"""The pages of the server, one group of routes per file."""
