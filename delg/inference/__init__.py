"""What runs a network: a small protocol, and the libraries behind it."""
