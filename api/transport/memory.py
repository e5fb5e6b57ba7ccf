"""The old place of `api.memory`, for the tests that import it from here."""

from api.memory import keep_flat, settle

__all__ = ["keep_flat", "settle"]
