"""Remakes the model that training starts from, out of published ImageNet weights."""
