"""What a run of the embedding job has to do: its settings, the earlier run, the store, missing keys, the index."""
