"""Photos to features: the pyramid through the network, and which local features are kept."""
