"""Vectors, labels and splits as .npz and Parquet files, out and in."""
