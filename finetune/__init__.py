"""Fine-tuning the encoder under a tuned head: a bundle in, a bundle with an encoder delta out."""

# Names of what may be trained: the sides of `embed.clip.unfrozen`.
TOWERS = {"both": ("image", "text"), "image": ("image",), "text": ("text",)}
