"""Learnt attention: which local features to keep (``delg model attention``)."""
