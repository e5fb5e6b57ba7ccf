"""Read tables into memes: columns, labels, splits, near-duplicates."""
