"""What hits say of a query, and what people say of hits."""
