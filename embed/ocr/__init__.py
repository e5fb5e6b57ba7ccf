"""Optical character recognition (OCR) of the text on pictures."""
