"""Calibrations of models: photos in, what evidence is worth out (``delg model calibrate``)."""
