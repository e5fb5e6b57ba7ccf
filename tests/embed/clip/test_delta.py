"""An encoder with a delta equals open_clip's model with the changed weights, in float32 and bfloat16."""

import hashlib
import os
import stat
import struct
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from fakes import picture
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cache import differences
from embed.clip import encoder as encoder_module
from embed.clip.delta import DELTA, apply_delta, write_delta
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.options import EncoderOptions
from embed.clip.weights import EncoderUnavailable

CPU = torch.device("cpu")
DEMO = "local-dir:demo/encoder"
IMAGE, TEXT = "visual.transformer.resblocks.3.mlp.c_fc.weight", "transformer.resblocks.1.attn.in_proj_weight"
State = dict[str, Tensor]


@cache
def weights() -> State:
    """The demo encoder's weights; not to be modified."""
    return open_clip.create_model(DEMO).state_dict()


def noise(*shape: int, scale: float, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def whole(scale: float = 0.01) -> State:
    """Changed weights of both towers: matrices, a bias, the projections, an embedding."""
    names = (IMAGE, TEXT, "visual.ln_post.bias", "visual.proj", "text_projection", "token_embedding.weight")
    return {name: value + noise(*value.shape, scale=scale) for name, value in weights().items() if name in names}


def low_rank(scale: float = 0.1, names: tuple[str, ...] = (IMAGE, TEXT)) -> State:
    factors: State = {}
    for name in names:
        out, into = weights()[name].shape
        factors |= {f"{name}.lora_A": noise(3, into, scale=scale), f"{name}.lora_B": noise(out, 3, scale=scale, seed=1)}
    return factors


def mixed() -> State:
    return low_rank(names=(TEXT,)) | {"visual.proj": whole()["visual.proj"]}


def by_hand(state: State) -> State:
    """All weights of the demo encoder after the change."""
    after = dict(weights())
    for name, value in state.items():
        if name.endswith(".lora_A"):
            of = name.removesuffix(".lora_A")
            after[of] = (after[of].double() + state[f"{of}.lora_B"].double() @ value.double()).float()
        elif not name.endswith(".lora_B"):
            after[name] = value
    return after


def written(folder: Path, state: State) -> Path:
    write_delta(folder / DELTA, state)
    return folder / DELTA


def with_delta(path: Path, precision: str = "fp32") -> ClipEncoder:
    return load_encoder(DEMO, "", CPU, EncoderOptions(precision=precision), path)


def vectors(encoder: ClipEncoder) -> Tensor:
    """(6, D): of three pictures and three texts."""
    pixels = [encoder.pixels(picture(seed, size=(90, 70))) for seed in range(3)]
    texts = [encoder.tokens(text) for text in ("", "a short one", "words " * 100)]
    return torch.stack([*encoder.image_features(pixels), *encoder.text_features(texts)])


@torch.inference_mode()
def stock_vectors(state: State, tmp_path: Path) -> Tensor:
    """The same, by open_clip alone."""
    clip, _, preprocess = open_clip.create_model_and_transforms(DEMO)
    clip.eval().load_state_dict(state)
    pixels = []
    for seed in range(3):
        (tmp_path / "x.png").write_bytes(picture(seed, size=(90, 70)))
        pixels.append(preprocess(Image.open(tmp_path / "x.png")))
    texts = open_clip.get_tokenizer(DEMO)(["", "a short one", "words " * 100])
    return torch.cat([clip.encode_image(torch.stack(pixels)), clip.encode_text(texts)])


CHANGES = {"whole": whole, "low rank": low_rank, "both": mixed}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_in_float32_it_is_open_clips_model_changed_by_hand(tmp_path: Path, change: Callable[[], State]) -> None:
    encoder = with_delta(written(tmp_path, change()))
    assert (vectors(encoder) - stock_vectors(by_hand(change()), tmp_path)).abs().max() <= 1e-5
    apart = (vectors(encoder) - stock_vectors(weights(), tmp_path)).abs().amax(dim=1)
    assert (apart > 1e-2).all(), "on one side nothing has changed"


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_in_bfloat16_it_is_the_changed_model_rounded_once(tmp_path: Path, change: Callable[[], State]) -> None:
    """Equal to an encoder whose file holds the changed weights; bit for bit without low-rank sums."""
    encoder = with_delta(written(tmp_path, change()), "bf16")
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in Path("demo/encoder").iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    save_file(by_hand(change()), changed / "open_clip_model.safetensors")
    other = load_encoder(f"local-dir:{changed}", "", CPU, EncoderOptions(precision="bf16"))
    assert encoder.spec["dtype"] == "bfloat16"
    if change is whole:
        assert torch.equal(vectors(encoder), vectors(other))
    assert (vectors(encoder) - vectors(other)).abs().max() <= 1e-3 * vectors(other).abs().max()


def test_a_change_is_added_before_the_weights_are_rounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change of a tenth of a rounding step would mostly be lost if it were added to rounded weights."""
    before = weights()[IMAGE]
    step = before.abs().mean() * 2**-8
    state = {f"{IMAGE}.lora_A": step.expand(1, before.shape[1]) / 10, f"{IMAGE}.lora_B": torch.ones(len(before), 1)}
    loaded: list[nn.Module] = []
    tower = encoder_module.image_tower
    monkeypatch.setattr(encoder_module, "image_tower", lambda clip, *more: loaded.append(clip) or tower(clip, *more))
    path = written(tmp_path, state)
    with_delta(path, "bf16")
    found = loaded[0].state_dict()[IMAGE]
    assert torch.equal(found.float(), (before + step / 10).bfloat16().float())
    rounded = open_clip.create_model(DEMO, precision="bf16")
    apply_delta(rounded, path)
    assert not torch.equal(rounded.state_dict()[IMAGE].float(), found.float())


def test_a_model_in_half_precision_keeps_its_dtypes(tmp_path: Path) -> None:
    clip = open_clip.create_model(DEMO, precision="bf16")
    before = {name: value.clone() for name, value in clip.state_dict().items()}
    apply_delta(clip, written(tmp_path, mixed()))
    after = clip.state_dict()
    assert {name: value.dtype for name, value in after.items()} == {name: value.dtype for name, value in before.items()}
    assert {name for name in after if not torch.equal(after[name], before[name])} == {TEXT, "visual.proj"}
    assert torch.equal(after["visual.proj"], mixed()["visual.proj"].bfloat16())


def test_pooled_features_and_texts_in_pieces_are_of_the_changed_encoder_too(tmp_path: Path) -> None:
    options = EncoderOptions("pooled", "fp32", "chunk")
    plain, tuned = (load_encoder(DEMO, "", CPU, options, path) for path in (None, written(tmp_path, low_rank())))
    for text in ("short", "many words " * 100):
        one, other = (of.text_features([of.tokens(text)]) for of in (plain, tuned))
        assert (one - other).abs().max() > 1e-2
    assert EncoderOptions.of_spec(tuned.spec) == options


def test_the_spec_has_the_digest_of_the_delta_and_nothing_else_is_new(tmp_path: Path) -> None:
    plain, path = load_encoder(DEMO, "", CPU, EncoderOptions(precision="fp32")), written(tmp_path, whole())
    tuned = with_delta(path).spec
    assert tuned.pop("delta_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert tuned == plain.spec and "delta_sha256" not in plain.spec
    other = with_delta(written(tmp_path, whole(0.02))).spec
    assert len(differences(with_delta(written(tmp_path, whole())).spec, other)) == 1


def test_a_model_that_does_not_run_in_halves_keeps_its_delta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embed.clip.encoder._runs", lambda *_: False)
    monkeypatch.setattr("embed.clip.encoder.choose_precision", lambda wanted, _: "bf16" if wanted == "auto" else wanted)
    path = written(tmp_path, whole())
    assert load_encoder(DEMO, "", CPU, EncoderOptions(), path).spec == with_delta(path).spec


def test_what_is_hashed_is_what_is_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read once, so replacing it in between has no effect."""
    path, reads = written(tmp_path, whole()), []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: reads.append(self) or read(self))
    apply_delta(open_clip.create_model(DEMO), path)
    assert reads.count(path) == 1


def test_equal_tensors_give_equal_bytes_wherever_they_come_from(tmp_path: Path) -> None:
    matrix = noise(6, 4, scale=1)
    views = {"b": matrix[:3], "a": matrix[3:], "c": matrix.T}  # views that share memory, one not contiguous
    apart = {name: views[name].clone().contiguous().requires_grad_() for name in ("c", "a", "b")}
    assert written(tmp_path / "one", views).read_bytes() == written(tmp_path / "other", apart).read_bytes()
    held = load_file(tmp_path / "one" / DELTA)
    assert held.keys() == views.keys() and all(torch.equal(held[name], views[name]) for name in views)


def test_it_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, whole())
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cache.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_delta(path, low_rank())
    assert path.read_bytes() == before and os.listdir(tmp_path) == [DELTA]


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        assert stat.S_IMODE(written(tmp_path, whole()).stat().st_mode) == 0o644
    finally:
        os.umask(before)


A, B = f"{IMAGE}.lora_A", f"{IMAGE}.lora_B"
OF_NO_MODEL: dict[str, tuple[Callable[[], State], str]] = {
    "nothing": (dict, "the delta has no weights"),
    "not a number": (lambda: {IMAGE: torch.full((384, 96), torch.nan)}, "NaN or infinite"),
    "infinite": (lambda: {A: torch.full((1, 96), torch.inf), B: torch.ones(384, 1)}, "NaN or infinite"),
    "halves": (lambda: {IMAGE: torch.ones(384, 96).half()}, "expected float32, got float16"),
    "whole numbers": (lambda: {IMAGE: torch.ones(384, 96, dtype=torch.int64)}, "expected float32, got int64"),
    "A alone": (lambda: {A: torch.ones(2, 96)}, "lora_A: its factor .*lora_B is missing"),
    "B alone": (lambda: {B: torch.ones(384, 2)}, "lora_B: its factor .*lora_A is missing"),
    "both ways": (lambda: low_rank() | {IMAGE: torch.ones(384, 96)}, "both in full and as a low-rank change"),
    "a vector": (lambda: {A: torch.ones(96), B: torch.ones(384, 1)}, "expected 2 dimensions"),
}
OF_ANOTHER_MODEL: dict[str, tuple[Callable[[], State], str]] = {
    "a name": (lambda: whole() | {"visual.transformer.resblocks.12.ln_1.bias": torch.ones(96)}, "12.ln_1.bias: no weight"),
    "a low-rank name": (lambda: {"x.lora_A": torch.ones(1, 9), "x.lora_B": torch.ones(9, 1)}, "x: no weight of this"),
    "a suffix alone": (lambda: {".lora_A": torch.ones(1, 9), ".lora_B": torch.ones(9, 1)}, "no weight of this"),
    "a shape": (lambda: {IMAGE: torch.ones(96, 384)}, r"expected the shape \(384, 96\), got \(96, 384\)"),
    "one number": (lambda: {IMAGE: torch.ones(())}, r"got \(\)"),
    "a low-rank shape": (lambda: {A: torch.ones(2, 384), B: torch.ones(96, 2)}, r"got \(96, 384\)"),
    "ranks": (lambda: {A: torch.ones(2, 96), B: torch.ones(384, 3)}, "different ranks, 2 and 3"),
    "of a bias": (lambda: {"visual.ln_post.bias.lora_A": torch.ones(1, 1), "visual.ln_post.bias.lora_B": torch.ones(96, 1)},
                  r"expected the shape \(96,\)"),
}  # fmt: skip


def refused(path: Path, row_error: str) -> None:
    """The error names the file and the remedy, and the model is unchanged."""
    clip = open_clip.create_model(DEMO)
    with pytest.raises(EncoderUnavailable, match=row_error) as caught:
        apply_delta(clip, path)
    assert str(caught.value).startswith(f"{path}: ") and "copy the bundle again, whole, or run `make finetune`" in str(
        caught.value
    )
    after = clip.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights().items())


@pytest.mark.parametrize(("state", "row_error"), OF_NO_MODEL.values(), ids=OF_NO_MODEL)
def test_what_no_model_could_take_is_neither_written_nor_read(
    tmp_path: Path, state: Callable[[], State], row_error: str
) -> None:
    with pytest.raises(ValueError, match=row_error):
        write_delta(tmp_path / DELTA, state())
    assert not list(tmp_path.iterdir())
    save_file(state(), tmp_path / DELTA)
    refused(tmp_path / DELTA, row_error)


@pytest.mark.parametrize(("state", "row_error"), OF_ANOTHER_MODEL.values(), ids=OF_ANOTHER_MODEL)
def test_a_delta_of_another_model_is_refused(tmp_path: Path, state: Callable[[], State], row_error: str) -> None:
    refused(written(tmp_path, state()), row_error)


def header(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        b"\x80\x04\x95 a pickle",
        header(b"{half"),
        header(b"[]"),
        header(b'{"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'),
        header(b'{"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}') + b"x",
        struct.pack("<Q", 2**60),
    ],
)
def test_what_is_no_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DELTA).write_bytes(content)
    refused(tmp_path / DELTA, "not a safetensors file")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, low_rank())
    data = path.read_bytes()
    for length in range(0, len(data), len(data) // 7):
        path.write_bytes(data[:length])
        with pytest.raises(EncoderUnavailable, match="not a safetensors file"):
            apply_delta(nn.Module(), path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / DELTA, "cannot be read .No such file")
    (tmp_path / DELTA).mkdir()
    refused(tmp_path / DELTA, "cannot be read .Is a directory")
