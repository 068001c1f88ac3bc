"""One query: shortlist, verification, orientations, ranking."""
