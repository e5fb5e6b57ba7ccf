"""open_clip models: names, weights, tokenizer, preprocessor, towers, what fine-tuning changes."""
