"""The HTTP contract as a Flask application."""
