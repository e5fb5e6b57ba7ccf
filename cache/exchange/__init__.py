"""Export and import of vectors, labels and splits as .npz and Parquet files."""
