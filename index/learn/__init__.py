"""What is learnt from photos beside the network."""
