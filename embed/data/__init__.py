"""Tables to memes: columns, labels, splits, near-duplicates."""
