"""Tuning a fusion head over cached vectors: arrays in, a model bundle out. Never loads CLIP."""
