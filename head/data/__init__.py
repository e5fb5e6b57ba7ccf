"""Memes as arrays: features, near-copies, folds, rankings."""
