"""Training: photos in, a model's folder out (``delg train --config YAML``)."""
