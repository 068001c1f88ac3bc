"""An index over HTTP: a web page to search and look, and an API for programs."""
