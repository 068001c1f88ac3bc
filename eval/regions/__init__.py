"""Photos of small things, and of several: made by pasting, measured by the engine."""
