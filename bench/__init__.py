"""Benchmarks, one command each, against a named peer or a stated goal; no other room imports them."""
