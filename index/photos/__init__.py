"""Which photos an index holds, and where they lie."""
