"""One small file per published layout; `registry.py` lists them."""
