"""The DELG network in Keras, the only definition of it, and its weights."""
