"""Published data sets: what is known of them, and a check: `python -m embed data`."""
