"""The classifier (CLIP encoder and head) and its HTTP server. The only package that imports flask and waitress."""
