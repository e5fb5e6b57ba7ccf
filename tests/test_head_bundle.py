import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from head.bundle import LABELS, UnusableBundle, load_bundle, read_predictions, save_bundle
from head.fusion import FUSIONS, FusionHead, HeadConfig

SETTINGS = {
    "name": "memes", "train": {}, "encoder": {"model": "ViT", "pretrained": ""}, "spec": {"dim": 5}, "threshold": 0.41,
    "metrics": {}, "data": {}, "study": {}, "seed": 0,
}  # fmt: skip


def make_head(fusion: str = "align", seed: int = 0) -> FusionHead:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = FusionHead(HeadConfig(5, 4, fusion, width=6, hidden=7))
    head.fit_scaling(torch.randn(9, 5), torch.randn(9, 4))
    return head.eval()


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_round_trip_gives_the_same_logits(tmp_path, fusion):
    head, image, text = make_head(fusion), torch.randn(8, 5), torch.randn(8, 4)
    save_bundle(tmp_path / "b", head, SETTINGS, {"test": {"ids": ["a"]}})
    bundle = load_bundle(tmp_path / "b")
    assert torch.equal(bundle.head(image, text), head(image, text)) and not bundle.head.training
    assert bundle.config["labels"] == LABELS and bundle.config["calibration"] is None
    assert bundle.config["threshold"] == 0.41 and bundle.config["spec"] == {"dim": 5}
    assert read_predictions(tmp_path / "b") == {"test": {"ids": ["a"]}}


def test_a_new_bundle_replaces_the_old_one_whole_and_leaves_nothing_else(tmp_path):
    first = save_bundle(tmp_path / "b", make_head(), SETTINGS, {})
    (tmp_path / "b" / "report.html").write_text("of the old one")
    second = save_bundle(tmp_path / "b", make_head(seed=1), SETTINGS, {})
    assert first.config["version"] != second.config["version"] == load_bundle(tmp_path / "b").config["version"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert not (tmp_path / "b" / "report.html").exists()


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save_bundle(tmp_path / "b", make_head(), SETTINGS, {})
    before = (tmp_path / "b" / "config.json").read_bytes()
    with pytest.raises(ValueError):
        save_bundle(tmp_path / "b", make_head(), {**SETTINGS, "metrics": {"auroc": float("nan")}}, {})
    assert (tmp_path / "b" / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def _edit(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def _swap_weights(folder):
    save_file({"x": torch.zeros(1)}, folder / "head.safetensors")


def _flip_a_bit(folder):
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: cannot be read"),
        (lambda folder: (folder / "head.safetensors").unlink(), "head.safetensors: cannot be read"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object"),
        (_edit(format=99), "format 99, expected 1"),
        (_edit(head={"image_dim": 5}), "config.json: .*text_dim"),
        (_edit(head={"image_dim": 5, "text_dim": 4, "fusion": "cross"}), "config.json: .*cross"),
        (_edit(head={"image_dim": 6, "text_dim": 4}), "head.safetensors: the weights do not fit"),
        (_edit(threshold=None), "config.json: .*threshold"),
        (_edit(labels=["a", "b"]), "config.json: .*labels"),
        (_swap_weights, "head.safetensors: not the weights"),
        (_flip_a_bit, "head.safetensors: not the weights"),
    ],
)
def test_an_unusable_bundle_is_refused_by_the_name_of_its_file(tmp_path, damage, message):
    save_bundle(tmp_path / "b", make_head(), SETTINGS, {})
    damage(tmp_path / "b")
    with pytest.raises(UnusableBundle, match=message):
        load_bundle(tmp_path / "b")


def test_weights_with_nan_are_refused(tmp_path):
    head = make_head()
    with torch.no_grad():
        head.image_map[0].weight[0, 0] = np.nan
    save_bundle(tmp_path / "b", head, SETTINGS, {})
    with pytest.raises(UnusableBundle, match="NaN"):
        load_bundle(tmp_path / "b")


@pytest.mark.parametrize(
    ("change", "same"),
    [({"metrics": {"auroc": 1}}, True), ({"threshold": 0.5}, False), ({"spec": {"dim": 6}}, False)],
)
def test_the_version_changes_with_what_decides_a_prediction_and_with_nothing_else(tmp_path, change, same):
    first = save_bundle(tmp_path / "a", make_head(), SETTINGS, {}).config["version"]
    head = load_bundle(tmp_path / "a").head
    second = save_bundle(tmp_path / "b", head, {**SETTINGS, **change}, {}).config["version"]
    assert (first == second) is same
