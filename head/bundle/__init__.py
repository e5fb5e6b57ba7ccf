"""The model bundle: its files, its settings, its evaluation on test."""
