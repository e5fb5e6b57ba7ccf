"""Engines that compute vectors: this machine or a Ray cluster."""
