"""The combined CLIP-plus-head module and HTTP. The only room that imports flask and waitress."""
