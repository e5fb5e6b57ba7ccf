"""Fine-tuning the encoder under a tuned head: a bundle in, a bundle with an encoder delta out."""
