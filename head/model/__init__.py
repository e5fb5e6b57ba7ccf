"""Heads, their losses and training, and several heads as one."""
