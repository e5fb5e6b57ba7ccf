import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_bundles import PREDICTIONS, SETTINGS, make, make_head, save_bundle
from safetensors.torch import load_file, save_file

from cache import NOTICE, demo
from head.bundle import format as module
from head.bundle.format import (
    LABELS,
    UnusableBundle,
    demo_notice_of,
    load_bundle,
    read_config,
    read_part,
    write_part,
)
from head.model.ensemble import HeadEnsemble
from head.model.fusion import FUSIONS

ROOT = Path(__file__).parents[3]


def save(folder: Path, ensembles: dict[str, HeadEnsemble] | None = None, **changes: Any) -> dict[str, Any]:
    return save_bundle(folder / "b", ensembles or make(), {**SETTINGS, **changes}, PREDICTIONS).config


def draw() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 5, generator=generator), torch.randn(8, 4, generator=generator)


def test_a_bundle_from_before_there_were_kinds_of_heads_answers_as_it_did(tmp_path: Path) -> None:
    ensembles = make()
    save(tmp_path, ensembles)
    path = tmp_path / "b" / "config.json"
    config = json.loads(path.read_text())
    for part in (part for parts in config["parts"].values() for part in parts):
        del part["kind"]
        for field in ("joint", "agreement", "centred"):
            del part["head"][field]
    path.write_text(json.dumps(config))
    again = load_bundle(tmp_path / "b").shipped
    with torch.inference_mode():
        assert torch.equal(again(*draw()), ensembles["ensemble"](*draw()))


def test_a_kind_that_this_program_does_not_know_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    path = tmp_path / "b" / "config.json"
    config = json.loads(path.read_text())
    config["parts"]["ensemble"][0]["kind"] = "oracle"
    path.write_text(json.dumps(config))
    with pytest.raises(UnusableBundle, match="kind: expected one of fusion, linear, neighbours, forest, got 'oracle'"):
        load_bundle(tmp_path / "b")


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_round_trip_gives_the_same_bits(tmp_path: Path, fusion: str) -> None:
    ensembles = make(make_head(fusion), make_head(fusion, seed=1, members=3))
    save(tmp_path, ensembles)
    bundle = load_bundle(tmp_path / "b")
    assert list(bundle.ensembles) == ["ensemble", "single"] and not bundle.shipped.training
    with torch.inference_mode():
        for name, ensemble in ensembles.items():
            again = bundle.ensembles[name]
            assert torch.equal(again(*draw()), ensemble(*draw())) and again.weights == ensemble.weights
            assert [head.config for head in again.heads] == [head.config for head in ensemble.heads]
    assert bundle.shipped is bundle.ensembles["ensemble"]


def test_a_round_trip_keeps_what_was_said_of_it(tmp_path: Path) -> None:
    saved = save(tmp_path)
    bundle = load_bundle(tmp_path / "b")
    assert bundle.config == saved == read_config(tmp_path / "b")
    assert {name: bundle.config[name] for name in SETTINGS} == SETTINGS and bundle.config["labels"] == LABELS
    assert bundle.calibration(np.array([0.2])) == pytest.approx(1 / (1 + np.exp(-0.1)))
    assert read_part(tmp_path / "b", "predictions.json") == PREDICTIONS
    assert set(bundle.config["versions"]) > {"python", "torch", "numpy"}


def test_tensors_that_are_equal_are_stored_once(tmp_path: Path) -> None:
    config = save(tmp_path)
    state = load_file(tmp_path / "b" / "head.safetensors")
    once = {name for name in state if "scaling" in name}
    assert once == {
        f"ensemble/0.scaling.{side}.{part}" for side in ("image", "text") for part in ("mean", "std", "projection")
    }
    assert len(config["twins"]) == 6 + len(make_head().state_dict())  # of the second head, and all of "single"
    contents = [(value.shape, value.numpy().tobytes()) for value in state.values()]
    assert len(set(contents)) == len(contents)


def test_parts_are_written_and_read_beside_the_others(tmp_path: Path) -> None:
    save(tmp_path)
    write_part(tmp_path / "b", "nested.json", {"auroc": 0.7, "name": "ü"})
    assert read_part(tmp_path / "b", "nested.json") == {"auroc": 0.7, "name": "ü"}
    assert read_part(tmp_path / "b", "metrics.json") is None
    with pytest.raises(ValueError):
        write_part(tmp_path / "b", "nested.json", {"auroc": float("nan")})
    assert read_part(tmp_path / "b", "nested.json") == {"auroc": 0.7, "name": "ü"}


def test_a_name_that_is_no_utf_8_is_written_all_the_same(tmp_path: Path) -> None:
    write_part(tmp_path, "nested.json", {"name": os.fsdecode(b"a\xff")})
    assert b"a\xff" in (tmp_path / "nested.json").read_bytes()


def test_a_new_bundle_replaces_the_old_one_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    first = save(tmp_path)
    (tmp_path / "b" / "report.html").write_text("of the old one")
    second = save(tmp_path, make(make_head(seed=5)))
    assert first["version"] != second["version"] == load_bundle(tmp_path / "b").config["version"]
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert {path.name for path in (tmp_path / "b").iterdir()} == {"config.json", "head.safetensors", "predictions.json"}


def test_further_files_are_replaced_with_the_others(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    save_bundle(folder, make(), SETTINGS, PREDICTIONS, {"encoder_delta.safetensors": b"delta"})
    assert (folder / "encoder_delta.safetensors").read_bytes() == b"delta" and load_bundle(folder)
    save_bundle(folder, make(), SETTINGS, PREDICTIONS)
    assert not (folder / "encoder_delta.safetensors").exists()


def test_a_bundle_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    save(tmp_path)
    before = (tmp_path / "b" / "config.json").read_bytes()
    with pytest.raises(ValueError):
        save(tmp_path, figures={"auroc": float("nan")})
    assert (tmp_path / "b" / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_between_the_two_renames_puts_the_old_bundle_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    version, rename = save(tmp_path)["version"], Path.rename

    def fail(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp" and target.name == "b":
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(error):
        save(tmp_path, threshold=0.9)
    assert load_bundle(tmp_path / "b").config["version"] == version
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_kill_between_the_two_renames_leaves_the_old_bundle_under_another_name(tmp_path: Path) -> None:
    version = save(tmp_path)["version"]
    code = """if True:
        import os, sys
        from pathlib import Path
        import test_format as this
        rename = Path.rename
        Path.rename = lambda path, target: os._exit(9) if path.suffix == ".tmp" and target.name == "b" else rename(path, target)
        this.save(Path(sys.argv[1]), threshold=0.9)
    """
    paths = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}{os.pathsep}{Path(__file__).parent}"}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False, env=paths).returncode == 9
    (old,) = tmp_path.glob("*.old")
    assert load_bundle(old).config["version"] == version and not (tmp_path / "b").exists()
    save(tmp_path, threshold=0.9)
    assert load_bundle(tmp_path / "b").config["threshold"] == 0.9


Damage = Callable[[Path], Any]


def edit(**changes: Any) -> Damage:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def without(name: str) -> Damage:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        del config[name]
        (folder / "config.json").write_text(json.dumps(config))

    return change


def part(members: Any = 2, weight: Any = 1.0, **head: Any) -> Damage:
    config = {**asdict(make_head().config), **head}
    return edit(parts={"ensemble": [{"head": config, "members": members, "weight": weight}]})


def replace(name: str, data: bytes | str) -> Damage:
    return lambda folder: (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)


def flip_a_bit(folder: Path) -> None:
    data = bytearray((folder / "head.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "head.safetensors").write_bytes(data)


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    """Other weights, with a checksum that says they are right."""

    def swap(folder: Path) -> None:
        path = folder / "head.safetensors"
        state = load_file(path)
        change(state)
        save_file(state, path)
        edit(weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())(folder)

    return swap


def no_safetensors(folder: Path) -> None:
    (folder / "head.safetensors").write_bytes(b"\x80\x04pickle")
    edit(weights_sha256=hashlib.sha256(b"\x80\x04pickle").hexdigest())(folder)


FIRST = "ensemble/0.output.weight"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file; `make tune`"),
        (lambda folder: (folder / "head.safetensors").unlink(), "head.safetensors: cannot be read"),
        (replace("config.json", "{"), "config.json: not JSON"),
        (replace("config.json", b"\xff\xfe"), "config.json: not JSON"),
        (replace("config.json", "[" * 100_000), "config.json: not JSON"),
        (replace("config.json", "[]"), "config.json: expected a JSON object"),
        (edit(format=1), "format 1, expected 2; run `make tune`"),
        (without("format"), "format None, expected 2"),
        (without("parts"), "config.json: .*parts"),
        (without("threshold"), "config.json: .*threshold"),
        (without("calibration"), "config.json: .*calibration"),
        (without("review"), "config.json: .*review"),
        (without("twins"), "head.safetensors: .*twins"),
        (without("weights_sha256"), "head.safetensors: not the weights"),
        (edit(parts=[]), "config.json"),
        (edit(parts={}), "config.json: .*shipped"),
        (edit(parts={"ensemble": []}), "config.json: .*parts"),
        (edit(parts={"ensemble": 3}), "config.json"),
        (edit(parts={"ensemble": [3]}), "config.json"),
        (edit(parts={"ensemble": [{"members": 1, "weight": 1}]}), "config.json: .*head"),
        (part(fusion="sum"), "config.json: .*fusion: expected one of"),
        (part(depths=1), "config.json: .*depths"),
        (part(text_dim=None), "config.json: .*text_dim"),
        (part(weight="1"), "config.json: .*weight"),
        (part(weight=float("nan")), "config.json: .*weight"),
        (part(members=0), "config.json: .*members"),
        (part(members="2"), "config.json: .*members"),
        (part(members=10**9), "config.json: .*members"),
        (part(depth=10**9), "config.json: .*depth: expected .* to 64"),
        (part(width=10**12), "config.json: .*width: expected"),
        (part(members=10_000, image_dim=1 << 20, width=1 << 20), "head.safetensors: the weights do not fit"),
        (part(members=10_000, hidden=1 << 20, depth=64), "head.safetensors: the weights do not fit"),
        (part(members=3), "head.safetensors: the weights do not fit"),
        (part(image_dim=6), "head.safetensors: the weights do not fit"),
        (part(depth=2), "head.safetensors: the weights do not fit"),
        (edit(shipped="another"), "config.json: .*shipped: expected one of ensemble, single"),
        (edit(shipped=["ensemble"]), "config.json"),
        (edit(threshold=None), "config.json: .*threshold"),
        (edit(threshold=True), "config.json: .*threshold"),
        (edit(threshold=1.5), "config.json: .*threshold"),
        (edit(threshold=float("nan")), "config.json: .*threshold"),
        (edit(calibration=None), "config.json"),
        (edit(calibration={"kind": "platt", "slope": -1.0, "offset": 0.0}), "config.json: .*slope"),
        (edit(calibration={"kind": "isotonic", "slope": 1.0, "offset": 0.0}), "config.json: .*kind"),
        (edit(calibration={"kind": "platt", "slope": "1", "offset": 0.0}), "config.json"),
        (edit(review={"low": 0.6, "high": 0.3}), "config.json: .*review"),
        (edit(review={"low": 0.6}), "config.json: .*high"),
        (edit(review=[0.1, 0.2]), "config.json"),
        (edit(labels=["a", "b"]), "config.json: .*labels"),
        (edit(name=3), "config.json: .*name"),
        (edit(version=None), "config.json: .*version"),
        (edit(spec="ViT"), "config.json: .*spec"),
        (edit(encoder=None), "config.json: .*encoder"),
        (edit(encoder={"model": "ViT"}), "config.json: .*pretrained"),
        (edit(encoder={"model": 3, "pretrained": ""}), "config.json: .*model"),
        (edit(twins=[]), "head.safetensors: the weights do not fit"),
        (edit(twins={"single/0.output.weight": "none"}), "head.safetensors: the weights do not fit"),
        (edit(twins={"single/0.output.weight": ["none"]}), "head.safetensors: the weights do not fit"),
        (replace("head.safetensors", b""), "head.safetensors: not the weights"),
        (flip_a_bit, "head.safetensors: not the weights"),
        (no_safetensors, "head.safetensors: the weights do not fit"),
        (weights(lambda state: state.pop(FIRST)), "head.safetensors: the weights do not fit"),
        (weights(lambda state: state.update({"ensemble/x": torch.zeros(1)})), "head.safetensors: the weights do not fit"),
        (weights(lambda state: state.update({FIRST: torch.zeros(1)})), "head.safetensors: the weights do not fit"),
        (weights(lambda state: state[FIRST].fill_(float("nan"))), "head.safetensors: the weights hold NaN"),
        (weights(lambda state: state[FIRST].fill_(float("inf"))), "head.safetensors: the weights hold NaN"),
        (weights(lambda state: state.update({FIRST: state[FIRST].double()})), "head.safetensors: .* no float32"),
    ],
)  # fmt: skip
def test_an_unusable_bundle_is_refused_by_the_name_of_its_file(tmp_path: Path, damage: Damage, message: str) -> None:
    save(tmp_path)
    damage(tmp_path / "b")
    with pytest.raises(UnusableBundle, match=message):
        load_bundle(tmp_path / "b")


@pytest.mark.parametrize("name", ["config.json", "head.safetensors"])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    (tmp_path / "b" / name).unlink()
    (tmp_path / "b" / name).mkdir()
    with pytest.raises(UnusableBundle, match=f"{name}: cannot be read"):
        load_bundle(tmp_path / "b")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableBundle, match="config.json: no such file"):
        load_bundle(tmp_path / "none")


def test_without_a_band_nothing_is_left_to_review(tmp_path: Path) -> None:
    save(tmp_path, review=None)
    assert load_bundle(tmp_path / "b").config["review"] is None


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"figures": {"auroc": 1}}, True), ({"study": {"trials": 3}}, True), ({"threshold": 0.5}, False),
        ({"spec": {"dim": 6}}, False), ({"shipped": "single"}, False), ({"review": None}, False), ({"name": "x"}, False),
        ({"calibration": {"kind": "platt", "slope": 1.5, "offset": 0.0}}, False),
        ({"encoder": {"model": "ViT", "pretrained": "laion"}}, False),
    ],
)  # fmt: skip
def test_the_version_changes_with_what_decides_an_answer_and_with_nothing_else(
    tmp_path: Path, change: dict[str, Any], same: bool
) -> None:
    ensembles, first = make(), save(tmp_path)["version"]
    assert (save(tmp_path, ensembles, **change)["version"] == first) is same


def test_the_version_changes_with_a_weight_and_not_with_the_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Later(module.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Later":
            return cls(2100, 1, 1, tzinfo=tz)

    ensembles, first = make(), save(tmp_path)
    monkeypatch.setattr(module, "datetime", Later)
    later = save(tmp_path, ensembles)
    assert later["version"] == first["version"] and later["created"] == "2100-01-01T00:00:00+00:00" != first["created"]
    with torch.no_grad():
        ensembles["ensemble"].heads[1].output.bias[0] += 1e-3
    assert save(tmp_path, ensembles)["version"] != first["version"]
    ensembles["ensemble"].weights = (0.4, 0.6)
    assert save(tmp_path, ensembles)["version"] not in (first["version"], later["version"])


@pytest.mark.parametrize(
    ("data", "notice"),
    [
        ({"source": "demo/memes", "content": demo._CONTENT}, ""),
        ({"source": "/elsewhere", "content": demo._CONTENT}, ""),
        ({"source": "demo/memes", "content": "of other memes"}, NOTICE),
        # bundles older than `content`
        ({"source": "demo/memes"}, ""),
        ({"source": "/home/me/meme-classifier/demo/memes"}, ""),
        ({"source": "../my-memes"}, NOTICE),
        (None, NOTICE),
    ],
)
def test_a_bundle_of_the_demos_encoder_on_other_memes_has_the_notice(data: Any, notice: str) -> None:
    assert demo_notice_of({"spec": {"weights_sha256": demo._WEIGHTS}, "data": data}) == notice
    assert demo_notice_of({"spec": {"weights_sha256": "of a real model"}, "data": data}) == ""
