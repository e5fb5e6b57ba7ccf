"""Small model bundles for tests: heads with weights of their own, settings, predictions."""

from pathlib import Path
from typing import Any

import torch

from head.bundle.format import Bundle, bundle_files, write_bundle
from head.model.ensemble import HeadEnsemble
from head.model.fusion import FusionHead, HeadConfig, scaled_columns

SETTINGS: dict[str, Any] = {
    "name": "memes", "shipped": "ensemble", "encoder": {"model": "ViT", "pretrained": ""}, "spec": {"dim": 5},
    "calibration": {"kind": "platt", "slope": 1.5, "offset": -0.2}, "threshold": 0.41, "review": {"low": 0.3, "high": 0.6},
}  # fmt: skip
PREDICTIONS = {"out_of_fold": {"ids": ["a"], "ensemble": [0.25]}}


def make_head(fusion: str = "align", seed: int = 0, members: int = 2) -> FusionHead:
    """A head with weights of its own, and the scaling that all heads over the same folds have."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        joint = 2 if fusion == "agreement" else 0
        head = FusionHead(HeadConfig(5, 4, fusion, components=3, width=6, hidden=7, joint=joint), members)
        torch.manual_seed(0)
        rows = [torch.randperm(9)[:6] for _ in range(members)]
        image, text = torch.randn(9, 5), torch.randn(9, 4)
        for name, scaling in head.scaling.items():
            scaling.fit(*scaled_columns(name, image, text, joint), rows)
    return head.eval()


def make(*heads: FusionHead) -> dict[str, HeadEnsemble]:
    heads = heads or (make_head(), make_head("concat", seed=1))
    return {"ensemble": HeadEnsemble(heads, [1 / len(heads)] * len(heads)), "single": HeadEnsemble(heads[:1], [2.0])}


def save_bundle(
    folder: Path,
    ensembles: dict[str, HeadEnsemble],
    settings: dict[str, Any],
    predictions: dict[str, Any],
    further: dict[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle to `folder`; arguments as of `bundle_files`."""
    config, files = bundle_files(ensembles, settings, predictions, further or {})
    write_bundle(folder, files)
    return Bundle(ensembles, config)
