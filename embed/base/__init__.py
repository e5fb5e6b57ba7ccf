"""Shared helpers: errors, text cleaning, threads, JSON-lines files."""
