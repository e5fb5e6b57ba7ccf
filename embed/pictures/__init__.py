"""Finding, reading, hashing and decoding picture files."""
