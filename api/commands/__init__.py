"""Commands that need no server: predict, predict-folder, export."""
