"""Figures, calibration, thresholds and the verdict in words."""
