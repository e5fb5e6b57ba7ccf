"""Former place and names of `api.memory`, for tests/conftest.py."""

from api.memory import configure_malloc as keep_flat
from api.memory import trim_memory as settle

__all__ = ["keep_flat", "settle"]
