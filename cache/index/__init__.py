"""The dataset index, and the content-based parts that splits are derived from."""
