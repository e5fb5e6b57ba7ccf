"""The data audit, `python -m embed audit`."""
