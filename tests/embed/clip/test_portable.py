"""Copies of an encoder: same vectors and spec as the original, and damage is detected."""

import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from fakes import picture
from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from embed.clip import portable
from embed.clip.delta import DELTA, write_delta
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.options import EncoderOptions
from embed.clip.portable import CONFIG, SOURCE, WEIGHTS, copy_encoder, load_portable, probe, save_encoder
from embed.clip.weights import EncoderUnavailable, find_weights
from tests.embed.clip.test_delta import mixed

CPU = torch.device("cpu")
DEMO = "local-dir:demo/encoder"
FP32 = EncoderOptions(precision="fp32")
FILES = (CONFIG, WEIGHTS, SOURCE)


def saved(folder: Path, model: str = DEMO, pretrained: str = "", options: EncoderOptions = FP32) -> ClipEncoder:
    """Write the encoder to `folder` and return it."""
    encoder = load_encoder(model, pretrained, CPU, options)
    save_encoder(folder, model, pretrained, encoder.spec)
    return encoder


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo encoder."""
    folder = tmp_path_factory.mktemp("copy") / "encoder"
    saved(folder)
    return folder


@pytest.fixture
def writable(copy: Path, tmp_path: Path) -> Path:
    return shutil.copytree(copy, tmp_path / "writable")


def vectors(encoder: ClipEncoder) -> torch.Tensor:
    pixels = [encoder.pixels(picture(seed, size=(90, 70))) for seed in range(3)]
    texts = [encoder.tokens(text) for text in ("", "a short one", "words " * 100)]
    return torch.stack([*encoder.image_features(pixels), *encoder.text_features(texts)])


@contextmanager
def another(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], **config: Any) -> Iterator[str]:
    """The demo encoder with other weights, or another config."""
    shutil.copytree("demo/encoder", folder)
    state = {name: value.float() for name, value in load_file(folder / WEIGHTS).items()}
    change(state)
    save_file(state, folder / WEIGHTS)
    described = json.loads((folder / CONFIG).read_text())
    described["model_cfg"].update(config)
    (folder / CONFIG).write_text(json.dumps(described))
    yield f"local-dir:{folder}"


def unround(*names: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Change one number of each tensor to one that float16 cannot represent."""

    def change(state: dict[str, torch.Tensor]) -> None:
        for name in names or list(state):
            state[name].view(-1)[0] += 1e-5

    return change


def nothing(state: dict[str, torch.Tensor]) -> None:
    """Leave the weights as they are."""


@pytest.fixture
def named(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A small model with a name known to open_clip and a checkpoint file, like ViT-B-32 with a file."""
    before = list(open_clip.factory._MODEL_CONFIG_PATHS)
    folder = tmp_path / "configs"
    folder.mkdir()
    config = json.loads(Path("demo/encoder", CONFIG).read_text())["model_cfg"]
    (folder / "tiny.json").write_text(json.dumps(config))
    try:
        open_clip.add_model_config(folder)
        torch.manual_seed(0)
        torch.save(open_clip.create_model("tiny", load_weights=False).state_dict(), tmp_path / "w.pt")
        yield "tiny", str(tmp_path / "w.pt")
    finally:
        open_clip.factory._MODEL_CONFIG_PATHS[:] = before
        open_clip.factory._rescan_model_configs()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("change", [nothing, unround()], ids=["halves", "singles"])
def test_a_copy_makes_the_same_bits_and_has_the_spec_of_its_original(
    tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], precision: str
) -> None:
    options = EncoderOptions(precision=precision)
    with another(tmp_path / "original", change) as model:
        original = saved(tmp_path / "copy", model, options=options)
    loaded = load_portable(tmp_path / "copy", CPU, options)
    assert torch.equal(vectors(loaded), vectors(original))
    assert loaded.spec == original.spec and loaded.weights == tmp_path / "copy" / WEIGHTS
    # the copy's file differs, so without source.json its spec would too
    assert load_encoder(f"local-dir:{tmp_path / 'copy'}", "", CPU, options).spec != original.spec


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_copy_with_a_delta_is_its_original_with_it(tmp_path: Path, precision: str) -> None:
    """The copy is of the original encoder, whether saved with the fine-tuned spec or not."""
    options, path = EncoderOptions(precision=precision), tmp_path / DELTA
    write_delta(path, mixed())
    plain, tuned = (load_encoder(DEMO, "", CPU, options, delta) for delta in (None, path))
    for name, encoder in (("plain", plain), ("tuned", tuned)):
        save_encoder(tmp_path / name, DEMO, "", encoder.spec)
    for name in FILES:
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "tuned" / name).read_bytes()
    loaded = load_portable(tmp_path / "tuned", CPU, options, path)
    assert torch.equal(vectors(loaded), vectors(tuned)) and loaded.spec == tuned.spec
    assert not torch.equal(vectors(loaded), vectors(plain)) and "delta_sha256" in loaded.spec
    assert load_portable(tmp_path / "tuned", CPU, options).spec == plain.spec


def test_a_model_with_a_name_and_a_checkpoint_keeps_its_name(named: tuple[str, str], tmp_path: Path) -> None:
    original = saved(tmp_path / "copy", *named)
    loaded = load_portable(tmp_path / "copy", CPU, FP32)
    assert loaded.spec == original.spec and loaded.spec["model"] == "tiny"
    assert torch.equal(vectors(loaded), vectors(original))


def test_every_number_comes_back_whatever_it_is_stored_in(tmp_path: Path) -> None:
    """Buffers, scalars and infinities too."""
    odd = {"visual.proj": 1e6, "text_projection": 1e-9, "visual.class_embedding": torch.inf}

    def change(state: dict[str, torch.Tensor]) -> None:
        for name, value in odd.items():
            state[name].view(-1)[0] = value
        state["logit_scale"] += 1e-5

    with another(tmp_path / "original", change) as model:
        wanted = open_clip.create_model(model).state_dict()
        saved(tmp_path / "copy", model)
    held = load_file(tmp_path / "copy" / WEIGHTS)
    found = open_clip.create_model(f"local-dir:{tmp_path / 'copy'}").state_dict()
    assert found.keys() == wanted.keys() == held.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    whole = {name for name, value in held.items() if value.dtype == torch.float32}
    # float16 has infinity
    assert whole == {"visual.proj", "text_projection", "logit_scale"}
    assert {value.dtype for name, value in held.items() if name not in whole} == {torch.float16}


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (torch.tensor(2.0), torch.float16),
        (torch.tensor(2.6592), torch.float32),
        (torch.tensor([65504.0, -0.0]), torch.float16),
        (torch.tensor([65520.0]), torch.float32),
        (torch.tensor([torch.nan]), torch.float32),
        (torch.arange(77), torch.int64),
        (torch.tensor([True]), torch.bool),
        (torch.ones(3, 2).T, torch.float16),
        (torch.full((3, 2), 0.1).T, torch.float32),
    ],
)
def test_halves_are_only_what_loses_no_bit(value: torch.Tensor, dtype: torch.dtype) -> None:
    smallest = portable._smallest(value)
    assert smallest.dtype == dtype and smallest.is_contiguous()
    back = smallest.to(value.dtype)
    assert torch.equal(back, value) or value.isnan().any()
    assert torch.equal(torch.signbit(back), torch.signbit(value))


def test_weights_of_halves_take_half_the_room(tmp_path: Path) -> None:
    sizes = []
    for name, change in (("halves", nothing), ("singles", unround())):
        with another(tmp_path / name, change) as model:
            saved(tmp_path / f"copy of {name}", model)
        sizes.append((tmp_path / f"copy of {name}" / WEIGHTS).stat().st_size)
    assert sizes[0] < 0.51 * sizes[1]


def test_quick_gelu_of_a_config_survives(tmp_path: Path) -> None:
    with another(tmp_path / "quick", nothing, quick_gelu=True) as model:
        original = saved(tmp_path / "copy", model)
    assert torch.equal(vectors(load_portable(tmp_path / "copy", CPU, FP32)), vectors(original))
    assert not torch.equal(vectors(original), vectors(load_encoder(DEMO, "", CPU, FP32))), "without it: the same"


def test_quick_gelu_that_only_the_published_weights_ask_for_survives(
    named: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like `ViT-L-14 openai`, whose config has the other activation."""
    without = vectors(load_encoder(*named, CPU, FP32))

    def tagged(model: str, pretrained: str) -> tuple[dict[str, Any], Path]:
        config, weights = find_weights(model, pretrained)
        return (config | {"quick_gelu": True} if model == "tiny" else config), weights

    monkeypatch.setattr(portable, "find_weights", tagged)
    monkeypatch.setattr("embed.clip.encoder.find_weights", tagged)
    original = saved(tmp_path / "copy", *named)
    loaded = load_portable(tmp_path / "copy", CPU, FP32)
    assert torch.equal(vectors(loaded), vectors(original)) and not torch.equal(vectors(loaded), without)
    assert loaded.spec == original.spec and loaded.spec["model_config"]["quick_gelu"] is True


def test_a_text_tower_from_the_hub_is_refused_before_anything_is_loaded_or_written(tmp_path: Path) -> None:
    text = {"context_length": 77, "hf_model_name": "someone/roberta", "hf_tokenizer_name": "someone/roberta"}
    with (
        another(tmp_path / "hf", nothing, text_cfg=text) as model,
        pytest.raises(EncoderUnavailable, match=r"its text tower is someone/roberta.*serve the bundle as it is"),
    ):
        save_encoder(tmp_path / "copy", model, "", {})
    assert not (tmp_path / "copy").exists()


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_anywhere_in_a_file_is_refused(writable: Path, name: str) -> None:
    path = writable / name
    whole = path.read_bytes()
    original = load_portable(writable, CPU, FP32)
    # every byte of the small source.json, and a sample of the large files, since each position costs a digest
    places = range(len(whole)) if name == SOURCE else range(0, len(whole), max(1, len(whole) // 7))
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if name == SOURCE:
            refused_or_of_another_spec(writable, original, place)
            continue
        with pytest.raises(EncoderUnavailable, match=f"{name}: damaged.*copy the bundle again, whole"):
            load_portable(writable, CPU, FP32)


def refused_or_of_another_spec(folder: Path, original: ClipEncoder, place: int) -> None:
    """Damage of source.json is reported, or changes the spec, which the bundle then rejects."""
    try:
        found = portable._checked(folder)
    except EncoderUnavailable:
        return
    assert any(original.spec[name] != value for name, value in found.items()), place


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(writable: Path, name: str) -> None:
    (writable / name).unlink()
    with pytest.raises(EncoderUnavailable, match=f"{name}: cannot be read.*make export"):
        load_portable(writable, CPU, FP32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda source: source.update(format=2), "format 2, expected 1"),
        (lambda source: source.pop("sha256"), "cannot be read"),
        (lambda source: source.update(sha256={}), f"{CONFIG}: damaged"),
        (lambda source: source.update(sha256=5), "cannot be read"),
        (lambda source: source["sha256"].pop(WEIGHTS), f"{WEIGHTS}: damaged"),
        (lambda source: source["spec"].pop("model"), "cannot be read"),
        (lambda source: source.update(sha256={**source["sha256"], "tokenizer.json": "0"}), "tokenizer.json: cannot be"),
    ],
)
def test_a_file_of_digests_that_says_too_little_is_refused(
    writable: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    source = json.loads((writable / SOURCE).read_text())
    change(source)
    (writable / SOURCE).write_text(json.dumps(source))
    with pytest.raises(EncoderUnavailable, match=message):
        load_portable(writable, CPU, FP32)


def test_the_hub_is_asked_again_afterwards(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seen: list[bool] = []
    load = portable.load_encoder
    monkeypatch.setattr(portable, "load_encoder", lambda *asked: seen.append(constants.HF_HUB_OFFLINE) or load(*asked))
    load_portable(copy, CPU, FP32)
    assert seen == [True] and constants.HF_HUB_OFFLINE is False


def test_a_copy_of_a_copy_is_the_same_files(copy: Path, tmp_path: Path) -> None:
    copy_encoder(copy, tmp_path / "deep" / "second")
    second = {path.name: path.read_bytes() for path in (tmp_path / "deep" / "second").iterdir()}
    assert second == {path.name: path.read_bytes() for path in copy.iterdir()} and second.keys() == set(FILES)


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        saved(tmp_path / "copy")
        copy_encoder(tmp_path / "copy", tmp_path / "second")
    finally:
        os.umask(before)
    for folder in (tmp_path / "copy", tmp_path / "second"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o755
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_a_full_disk_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(portable, "save_file", fail)
    with pytest.raises(OSError, match=f"{WEIGHTS}: No space left"):
        saved(tmp_path / "copy")


def test_the_probe_sees_either_tower_and_the_order_of_colours(tmp_path: Path) -> None:
    encoder = load_encoder(DEMO, "", CPU, FP32)
    assert torch.equal(probe(encoder), probe(load_encoder(DEMO, "", CPU, FP32)))
    for name in ("visual.conv1.weight", "token_embedding.weight"):
        with another(tmp_path / name, lambda state, name=name: state[name].add_(0.01)) as model:
            assert not torch.equal(probe(load_encoder(model, "", CPU, FP32)), probe(encoder)), name
    assert not torch.equal(probe(replace(encoder, mean=encoder.mean + 0.01)), probe(encoder))
