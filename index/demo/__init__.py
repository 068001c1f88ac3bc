"""The demo: packaged photos, hard pictures of them, and a page that shows the matches."""
