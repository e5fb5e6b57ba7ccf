"""Weights of a real architecture without a hub: random, by a fixed seed, one file that every contender reads.

Speed does not depend on what the numbers are, so random ones will do; what comes out means nothing.
"""

from pathlib import Path

from bench.machine import WORKSHOP, say

MODEL = "ViT-B-32"
_SEED = 0


def weights_file(folder: Path = WORKSHOP, name: str = MODEL) -> Path:
    """The checkpoint of open_clip's model of that name, made if it is not there yet."""
    path = folder / f"{name}-random-{_SEED}.pt"
    if not path.exists():
        import open_clip  # seconds, and only the first run has to spend them
        import torch

        say(f"writing random weights of {name} to {path}")
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(_SEED)
        model = open_clip.create_model(name, load_weights=False)
        half = path.with_suffix(".tmp")
        torch.save(model.state_dict(), half)
        half.rename(path)
    return path
