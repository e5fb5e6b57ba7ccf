"""Connections and the listening server, by waitress."""
