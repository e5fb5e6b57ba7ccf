"""The search for a head's settings."""
