"""Words read off pictures."""
