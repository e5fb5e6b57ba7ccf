"""open_clip models: weights, tokenizer, preprocessor, towers, fine-tuning deltas."""
