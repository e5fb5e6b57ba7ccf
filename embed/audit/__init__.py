"""What is odd about a data set: `python -m embed audit`."""
