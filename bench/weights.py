"""Random weights of an open_clip architecture, from a fixed seed, in one file for all contenders.

Speed does not depend on the values; the vectors are meaningless. No hub is needed.
"""

from pathlib import Path

from bench.machine import BENCH_FOLDER, say

MODEL = "ViT-B-32"
_SEED = 0


def weights_file(folder: Path = BENCH_FOLDER, name: str = MODEL) -> Path:
    """The checkpoint of an open_clip model with random weights, created if missing. Raises OSError."""
    path = folder / f"{name}-random-{_SEED}.pt"
    if not path.exists():
        import open_clip  # takes seconds to import, needed in the first run only
        import torch

        say(f"writing random weights of {name} to {path}")
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(_SEED)
        model = open_clip.create_model(name, load_weights=False)
        half = path.with_suffix(".tmp")
        torch.save(model.state_dict(), half)
        half.rename(path)
    return path
