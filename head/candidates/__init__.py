"""Plain methods that a tuned head must beat, and that may ship."""
