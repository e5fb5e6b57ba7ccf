"""Loading and encoding with the demo encoder, and with a published model of random weights."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from fakes import picture
from huggingface_hub import constants
from machine import PATIENCE
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import embed.clip.encoder
from cache import SpecMismatch, differences
from embed.base.memory import TooLittleMemory
from embed.clip.encoder import ClipEncoder, load_encoder
from embed.clip.hardware import choose_device, choose_precision, has_products
from embed.clip.options import EncoderOptions, EncoderRequest, older_spec
from embed.clip.preprocessor import load_preprocessor, resize_only
from embed.clip.recall import recall_spec, remember_spec
from embed.clip.weights import EncoderUnavailable, find_weights
from embed.pictures.decoding import UnreadableImage, decode_picture

CPU = torch.device("cpu")
DEMO = "local-dir:demo/encoder"
FP32 = EncoderOptions(precision="fp32")
STORED = EncoderOptions(precision="fp32", picture="stored")
PICTURE, TEXT = picture(size=(300, 200)), "a text"


@pytest.fixture(scope="module")
def demo() -> ClipEncoder:
    return load_encoder(DEMO, "", CPU, FP32)


@pytest.fixture(scope="module")
def stored() -> ClipEncoder:
    """As of bundles that were made before specs had the field `picture`."""
    return load_encoder(DEMO, "", CPU, STORED)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def rotated() -> bytes:
    """A phone's picture, rotated by its EXIF orientation."""
    image = Image.open(io.BytesIO(picture(size=(150, 110))))
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(image, "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.open(io.BytesIO(picture(n, size=(130, 170)))).convert("P") for n in range(3)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


PICTURES = {
    **{mode: picture(size=(150, 110), mode=mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")},
    "CMYK": picture(size=(150, 110), mode="CMYK", format="JPEG"),
    "JPEG": picture(size=(451, 233), format="JPEG"),
    "WebP": picture(size=(110, 150), format="WEBP"),
    "WebP with alpha": picture(size=(110, 150), mode="RGBA", format="WEBP"),
    "BMP": picture(size=(110, 150), format="BMP"),
    "TIFF": picture(size=(110, 150), format="TIFF"),
    "animated GIF": animated(),
    "one pixel": picture(size=(1, 1)),
}


# What a person sees of these is not what is stored.
CHANGED = {
    "I;16": picture(size=(150, 110), mode="I;16"),
    "EXIF-rotated": rotated(),
    "transparent": saved(Image.new("RGBA", (150, 110), (0, 0, 0, 99)), "PNG"),
}


@pytest.fixture(scope="module")
def stock() -> tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]]:
    clip, _, preprocess = open_clip.create_model_and_transforms(DEMO)
    return clip.eval(), preprocess


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_every_format_gives_open_clips_own_vector(
    demo: ClipEncoder, stock: tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]], data: bytes
) -> None:
    clip, preprocess = stock
    pixels = preprocess(Image.open(io.BytesIO(data)))[None]
    with torch.no_grad():
        assert (demo.image_features([demo.pixels(data)]) - clip.encode_image(pixels)).abs().max() <= 1e-5


@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_every_way_of_resizing_gives_open_clips_own_pixels(demo: ClipEncoder, data: bytes, resize_mode: str) -> None:
    transform = open_clip.image_transform(96, is_train=False, resize_mode=resize_mode)
    seen: list[torch.Tensor] = []
    encoder = replace(
        demo,
        image_tower=lambda pixels: seen.append(pixels) or pixels,
        resize=resize_only(transform),
        mean=torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1),
        std=torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1),
    )
    encoder.image_features([encoder.pixels(data)])
    assert torch.equal(seen[0][0], transform(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("data", [*CHANGED.values(), *PICTURES.values()], ids=[*CHANGED, *PICTURES])
def test_an_encoder_of_an_older_spec_gets_every_picture_as_open_clip_does(
    stored: ClipEncoder, stock: tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]], data: bytes
) -> None:
    pixels = resize_only(stock[1])(Image.open(io.BytesIO(data)))
    assert np.array_equal(stored.pixels(data), pixels)
    assert np.array_equal(stored.pixels(Image.open(io.BytesIO(data))), pixels)
    assert np.array_equal(load_preprocessor(DEMO, stored.spec).pixels(data), pixels)


@pytest.mark.parametrize("data", CHANGED.values(), ids=CHANGED)
def test_other_pictures_are_encoded_as_a_person_sees_them(demo: ClipEncoder, stored: ClipEncoder, data: bytes) -> None:
    shown = saved(decode_picture(data), "PNG")
    for of in (
        demo.pixels(data),
        demo.pixels(Image.open(io.BytesIO(data))),
        load_preprocessor(DEMO, demo.spec).pixels(data),
    ):
        assert torch.equal(of, demo.pixels(shown))
    assert not torch.equal(stored.pixels(data), demo.pixels(data))


def test_sixteen_bits_have_the_vector_of_eight(demo: ClipEncoder) -> None:
    grey = np.asarray(Image.open(io.BytesIO(PICTURE)).convert("L")).astype(np.uint16)
    wide, narrow = (saved(Image.fromarray(values), "PNG") for values in (grey * 257, grey.astype(np.uint8)))
    one, other = demo.image_features([demo.pixels(wide), demo.pixels(narrow)])
    assert F.cosine_similarity(one, other, dim=0) > 0.9999


def test_the_spec_says_which_picture_is_judged(demo: ClipEncoder, stored: ClipEncoder) -> None:
    assert demo.spec["picture"] == {"rule": 1, "orientation": "exif", "background": "white", "bits": 8}
    assert "picture" not in stored.spec and stored.spec["decoder"]["exif_rotation"] is False
    assert older_spec(demo.spec) == stored.spec == older_spec(stored.spec)
    assert EncoderOptions.of_spec(demo.spec) == FP32 and EncoderOptions.of_spec(stored.spec) == STORED


def test_a_picture_that_cannot_be_resized_is_unreadable(demo: ClipEncoder) -> None:
    def fail(picture: Image.Image) -> Image.Image:
        raise ZeroDivisionError

    def lack(picture: Image.Image) -> Image.Image:
        raise MemoryError

    with pytest.raises(UnreadableImage, match="mode RGB that cannot be resized"):
        replace(demo, resize=fail).pixels(PICTURE)
    with pytest.raises(MemoryError):
        replace(demo, resize=lack).pixels(PICTURE)


@pytest.mark.parametrize("text", ["", "short", "a long one " * 60, "🤷 Привет 你好"])
def test_texts_give_open_clips_own_vectors(
    demo: ClipEncoder, stock: tuple[torch.nn.Module, Callable[[Image.Image], torch.Tensor]], text: str
) -> None:
    with torch.no_grad():
        expected = stock[0].encode_text(open_clip.get_tokenizer(DEMO)([text]))
    assert (demo.text_features([demo.tokens(text)]) - expected).abs().max() <= 1e-5


def test_token_count_is_that_before_the_cut(demo: ClipEncoder) -> None:
    assert demo.token_count("") == 2 and demo.token_count("one two three") == 5
    assert demo.token_count("word " * 300) == 302 and demo.tokens("word " * 300).shape == (1, 77)


def test_the_spec_names_what_could_change_a_vector(demo: ClipEncoder) -> None:
    assert demo.spec["weights_sha256"] == hashlib.sha256(demo.weights.read_bytes()).hexdigest()
    assert demo.spec["preprocess"]["interpolation"] == "bicubic"
    assert demo.spec["tokenizer"]["context_length"] == 77 and demo.spec["dtype"] == "float32"
    assert {"open_clip", "model_config", "decoder", "feature"} <= demo.spec.keys()


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """RN50 with fewer and smaller layers, under its published name."""
    for name in ("RN50", "RN50-quickgelu"):
        config = open_clip.get_model_config(name)
        config["vision_cfg"] |= {"layers": [1, 1, 1, 1], "width": 16}
        config["text_cfg"] |= {"width": 64, "heads": 2, "layers": 2}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config | {"embed_dim": 64})


def saved_model(name: str, save: Callable[[dict[str, torch.Tensor]], None]) -> list[torch.Tensor]:
    """Save a stock model's random weights; its vectors of a picture and of a text."""
    clip = open_clip.create_model(name, load_weights=False).eval()
    save(clip.state_dict())
    preprocess = open_clip.image_transform(224, is_train=False)
    with torch.no_grad():
        image = clip.encode_image(preprocess(Image.open(io.BytesIO(PICTURE)))[None])
        return [image, clip.encode_text(open_clip.tokenize([TEXT]))]


def check_both_sides(encoder: ClipEncoder, expected: list[torch.Tensor]) -> None:
    found = [encoder.image_features([encoder.pixels(PICTURE)]), encoder.text_features([encoder.tokens(TEXT)])]
    for ours, theirs in zip(found, expected):
        assert (ours - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.usefixtures("narrow")
def test_a_checkpoint_file_of_a_published_model(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    expected = saved_model("RN50", lambda state: (torch.save if suffix == ".pt" else save_file)(state, path))
    encoder = load_encoder("RN50", str(path), CPU, FP32)
    check_both_sides(encoder, expected)
    assert encoder.spec["model"] == "RN50" and encoder.weights == path


LONG = "a meme says many words that nobody reads to their end " * 12


def vectors(encoder: ClipEncoder) -> torch.Tensor:
    """(3,) rows: a picture, a short text, a long text, each of length 1."""
    image = encoder.image_features([encoder.pixels(picture(size=(90, 70)))])
    texts = encoder.text_features([encoder.tokens("a short one"), encoder.tokens(LONG)])
    width = max(image.shape[1], texts.shape[1])
    return torch.stack([F.pad(F.normalize(row, dim=0), (0, width - len(row))) for row in (*image, *texts)])


@pytest.fixture
def other_weights(tmp_path: Path) -> str:
    """The demo encoder with one number of each tower changed."""
    shutil.copytree("demo/encoder", tmp_path / "encoder")
    path = tmp_path / "encoder" / "open_clip_model.safetensors"
    state = load_file(path)
    state["visual.proj"][0, 0] += 1
    state["text_projection"][0, 0] += 1
    save_file(state, path)
    return f"local-dir:{tmp_path / 'encoder'}"


@pytest.mark.parametrize("changed", ["precision", "features", "long_text", "weights"])
def test_what_changes_a_vector_is_in_the_spec(demo: ClipEncoder, other_weights: str, changed: str) -> None:
    profiles = {
        "precision": EncoderOptions(precision="bf16"),
        "features": EncoderOptions(precision="fp32", features="pooled"),
        "long_text": EncoderOptions(precision="fp32", long_text="chunk"),
        "weights": FP32,
    }
    other = load_encoder(other_weights if changed == "weights" else DEMO, "", CPU, profiles[changed])
    ours, theirs = vectors(demo), vectors(other)
    width = max(ours.shape[1], theirs.shape[1])
    differs = [
        (F.pad(a, (0, width - len(a))) - F.pad(b, (0, width - len(b)))).abs().max() > 1e-6 for a, b in zip(ours, theirs)
    ]
    assert differs == ([False, False, True] if changed == "long_text" else [True] * 3)
    assert len(differences(demo.spec, other.spec)) == 1
    assert EncoderOptions.of_spec(other.spec) == profiles[changed]


def test_both_features_are_pooled_and_projected_columns_and_the_spec_says_how_many(demo: ClipEncoder) -> None:
    pooled, both = (load_encoder(DEMO, "", CPU, EncoderOptions(features, "fp32")) for features in ("pooled", "both"))
    joint = both.spec["joint"]
    for encode in (
        lambda of: of.image_features([of.pixels(picture())]),
        lambda of: of.text_features([of.tokens("some")]),
    ):
        whole, part, projected = (encode(of) for of in (both, pooled, demo))
        assert projected.shape == (1, joint) and whole.shape[1] == part.shape[1] + joint
        torch.testing.assert_close(whole, torch.cat((part, projected), dim=1), rtol=1e-5, atol=1e-5)
    assert EncoderOptions.of_spec(both.spec) == EncoderOptions("both", "fp32")
    assert "joint" not in pooled.spec and "joint" not in demo.spec


def test_what_changes_no_vector_is_not(demo: ClipEncoder) -> None:
    threads, alone = torch.get_num_threads(), vectors(demo)
    try:
        torch.set_num_threads(1)
        many = demo.image_features([demo.pixels(picture(n, size=(90, 70))) for n in range(9)])
    finally:
        torch.set_num_threads(threads)
    assert (F.normalize(many[:1]) - alone[:1]).abs().max() <= 1e-6
    on_another_day = load_encoder(f"local-dir:{Path('demo/encoder').resolve()}", "", CPU, FP32)
    assert on_another_day.spec == demo.spec and torch.equal(vectors(on_another_day), alone)


@torch.inference_mode()
def test_a_long_text_in_pieces_is_their_mean(demo: ClipEncoder) -> None:
    chunking = load_encoder(DEMO, "", CPU, EncoderOptions(precision="fp32", long_text="chunk"))
    pieces = chunking.tokenizer.pieces(LONG)
    assert len(pieces) > 1
    mean = demo.text_features([demo.tokens(piece) for piece in pieces]).mean(dim=0)
    short = demo.text_features([demo.tokens("short")])[0]
    both = chunking.text_features([chunking.tokens(LONG), chunking.tokens("short")])
    assert (both - torch.stack([mean, short])).abs().max() <= 1e-5


def test_a_processor_without_onednn_gives_the_same_vectors(demo: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embed.clip.towers.uses_onednn", lambda dtype: False)
    here = load_encoder(DEMO, "", CPU, FP32)
    assert here.spec == demo.spec
    assert (vectors(here) - vectors(demo)).abs().max() <= 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_without_instructions_for_halves_products_are_in_float32_of_rounded_weights(
    demo: ClipEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, precision: str
) -> None:
    wanted = EncoderOptions(precision=precision)
    there = load_encoder(DEMO, "", CPU, wanted)
    monkeypatch.setattr("embed.clip.encoder.has_products", lambda *_: False)
    caplog.clear()
    here = load_encoder(DEMO, "", CPU, wanted)
    assert [record.getMessage() for record in caplog.records] == [
        f"this cpu computes matrix products of {precision} weights in float32"
    ]
    assert here.spec == there.spec and EncoderOptions.of_spec(here.spec) == wanted
    assert {weight.dtype for weight in here.image_tower.buffers()} == {torch.float32}
    assert (vectors(here) - vectors(there)).abs().max() <= 1e-2
    rounded = (vectors(here) - vectors(demo)).abs().max() > 1e-6
    assert rounded == (precision == "bf16"), "the demo's weights are float16 already"
    pixels = [here.pixels(picture(seed, size=(90, 70))) for seed in range(9)]
    tokens = [here.tokens(text) for text in ("", "a short one", LONG) * 3]
    for encode, items in ((here.image_features, pixels), (here.text_features, tokens)):
        alone = torch.cat([encode([item]) for item in items])
        assert (F.normalize(encode(items)) - F.normalize(alone)).abs().max() <= 1e-6


def test_a_model_that_does_not_run_in_halves(monkeypatch: pytest.MonkeyPatch, offline: None) -> None:
    monkeypatch.setattr("embed.clip.encoder._runs", lambda *_: False)
    monkeypatch.setattr("embed.clip.encoder.choose_precision", lambda wanted, _: "bf16" if wanted == "auto" else wanted)
    assert load_encoder(DEMO, "", CPU, EncoderOptions()).spec["dtype"] == "float32"
    with pytest.raises(EncoderUnavailable, match="cannot run .* in bf16; use --precision fp32"):
        load_encoder(DEMO, "", CPU, EncoderOptions(precision="bf16"))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("lacking", ["image_tower", "open_clip.create_model_and_transforms"])
def test_too_little_memory_is_neither_a_bad_checkpoint_nor_a_precision_that_cannot_be_run(
    monkeypatch: pytest.MonkeyPatch, offline: None, error: Exception, lacking: str
) -> None:
    class Lacking(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            raise error

    def fail(*_: object, **__: object) -> None:
        raise error

    loads: list[str] = []
    load = embed.clip.encoder.load_clip
    monkeypatch.setattr("embed.clip.encoder.load_clip", lambda *given: loads.append(given[3]) or load(*given))
    monkeypatch.setattr("embed.clip.encoder.choose_precision", lambda *_: "bf16")
    monkeypatch.setattr(f"embed.clip.encoder.{lacking}", fail if "open_clip" in lacking else lambda *_: Lacking())
    with pytest.raises(TooLittleMemory, match="does not fit into this machine's memory"):
        load_encoder(DEMO, "", CPU, EncoderOptions())
    assert loads == ["bf16"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        (lambda spec: spec["decoder"].update(version="1.0"), "decoder.version: expected '1.0'"),
        (lambda spec: spec["tokenizer"].update(ftfy="1.0"), "tokenizer.ftfy: expected '1.0'"),
        (lambda spec: spec["tokenizer"].update(vocabulary_sha256="0"), "tokenizer.vocabulary_sha256: expected '0'"),
        (lambda spec: spec.update(open_clip="1.0"), "open_clip: expected '1.0'"),
    ],
)
def test_who_prepares_otherwise_is_refused_with_the_field(
    demo: ClipEncoder, changed: Callable[[dict[str, Any]], None], field: str
) -> None:
    spec = deepcopy(demo.spec)
    changed(spec)
    with pytest.raises(SpecMismatch, match=f"preprocessing on .*{field}"):
        load_preprocessor(DEMO, spec)


def test_coca_has_no_halves_where_float32_would_stand_in_for_them_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise its vectors would have a spec that no other machine produces."""
    monkeypatch.setattr("embed.clip.encoder.has_products", lambda *_: False)
    monkeypatch.setattr("embed.clip.encoder.CoCa", open_clip.model.CLIP)  # as the demo's is
    with pytest.raises(EncoderUnavailable, match="cannot run .* in bf16; use --precision fp32"):
        load_encoder(DEMO, "", CPU, EncoderOptions(precision="bf16"))


def test_auto_takes_the_preferred_precision_or_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_encoder(DEMO, "", CPU, EncoderOptions(prefer="bf16")).spec["dtype"] == "bfloat16"
    assert load_encoder(DEMO, "", CPU, EncoderOptions(prefer="fp32")).spec["dtype"] == "float32"
    monkeypatch.setattr("embed.clip.encoder.CoCa", open_clip.model.CLIP)
    assert load_encoder(DEMO, "", CPU, EncoderOptions(prefer="bf16")).spec["dtype"] == "float32"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_a_gpu_gets_the_halves_it_is_built_for(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda")) == precision
    assert choose_precision("fp32", torch.device("cuda")) == "fp32"


@pytest.mark.parametrize(
    ("instructions", "held", "precision"),
    [
        ({"avx2": True}, False, "fp32"),
        ({"avx512_bf16": True}, False, "bf16"),
        ({"amx_bf16": True}, False, "bf16"),
        ({"avx512_bf16": True}, True, "fp32"),
    ],
)
def test_a_processor_too(
    monkeypatch: pytest.MonkeyPatch, instructions: dict[str, bool], held: bool, precision: str
) -> None:
    """held: oneDNN or torch is limited to older instructions than the CPU has."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    monkeypatch.setattr("embed.clip.hardware.uses_onednn", lambda dtype: not held)
    assert choose_precision("auto", CPU) == precision
    assert has_products("bf16", CPU) == (precision == "bf16")
    assert has_products("fp32", CPU) and not has_products("fp16", CPU)


HELD = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
# The precision that "auto" gives on AVX2, and the difference of bfloat16 vectors encoded singly and in a batch.
ON_AVX2 = """
import torch
from torch.nn.functional import normalize
from embed.clip.encoder import load_encoder
from embed.clip.hardware import choose_precision
from embed.clip.options import EncoderOptions
cpu = torch.device("cpu")
encoder = load_encoder("local-dir:demo/encoder", "", cpu, EncoderOptions(precision="bf16"))
size = encoder.spec["preprocess"]["size"]
pixels = torch.randint(256, (9, *size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
texts = [encoder.tokens("some words " * length) for length in range(1, 30)]
apart = 0.0
for encode, items in ((encoder.image_features, list(pixels)), (encoder.text_features, texts)):
    alone = torch.cat([encode([item]) for item in items])
    apart = max(apart, float((normalize(encode(items)) - normalize(alone)).abs().max()))
print(choose_precision("auto", cpu), encoder.spec["dtype"], apart)
"""


def test_on_avx2_alone_a_bfloat16_vector_does_not_depend_on_its_batch() -> None:
    """In a separate process: both libraries detect instructions once."""
    environment = {**os.environ, **HELD}
    ran = subprocess.run(
        [sys.executable, "-c", ON_AVX2], check=False, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    assert ran.returncode == 0, ran.stderr
    chosen, dtype, apart = ran.stdout.split()
    assert (chosen, dtype) == ("fp32", "bfloat16") and float(apart) <= 1e-6


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("model", "pretrained", "row_error"),
    [
        ("ViT-L14", "openai", "no such open_clip model; near it: ViT-L-14"),
        ("ViT-L-14", "opnai", "neither a file nor weights published for ViT-L-14 .*openai"),
        ("ViT-L-14", "", "neither a file"),
        ("ViT-B-32", "laion400m_e31", "could not be fetched .*PRETRAINED=<file>"),
        ("hf-hub:someone/something", "", "could not be fetched"),
        ("local-dir:no/such/folder", "", "open_clip_config.json"),
        (DEMO, "openai", "brings its own weights"),
    ],
)
def test_what_cannot_be_had_is_said_with_what_to_type(
    offline: None, model: str, pretrained: str, row_error: str
) -> None:
    with pytest.raises(EncoderUnavailable, match=row_error):
        load_encoder(model, pretrained, CPU, FP32)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.usefixtures("narrow")
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(EncoderUnavailable, match="could not be loaded as weights of RN50"):
        load_encoder("RN50", str(path), CPU, FP32)


@pytest.mark.usefixtures("narrow")
def test_a_program_is_not_loaded_as_weights(tmp_path: Path) -> None:
    """OpenAI publishes its models so; torch's message would advise to run it."""
    path = tmp_path / "weights.pt"
    with warnings.catch_warnings(action="ignore"):  # this way of saving is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Identity()), path)
    with pytest.raises(EncoderUnavailable, match="RN50: a TorchScript program.*PRETRAINED=openai") as caught:
        load_encoder("RN50", str(path), CPU, FP32)
    assert "weights_only" not in str(caught.value)


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("embed.clip.weights.get_session", Session)
    with pytest.raises(EncoderUnavailable, match="the hub does not answer"):
        load_encoder("ViT-B-32", "laion400m_e31", CPU, FP32)
    assert len(asked) == 1


def test_openai_tags_get_the_activation_they_were_trained_with() -> None:

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embed.clip.weights.get_session", lambda: None)
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr("embed.clip.weights.open_clip.download_pretrained", lambda tag: "weights")
        assert find_weights("ViT-L-14", "openai")[0]["quick_gelu"] is True
        assert find_weights("ViT-L-14", "laion2b_s32b_b82k")[0]["quick_gelu"] is False


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").type == choose_device("cpu").type == "cpu"
    with pytest.raises(EncoderUnavailable, match="no CUDA GPU"):
        choose_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto").type == "cuda" and choose_device("cpu").type == "cpu"


def test_a_remembered_spec_counts_while_nothing_has_changed(tmp_path: Path) -> None:
    memory, weights = tmp_path / "encoders.json", tmp_path / "w.safetensors"
    weights.write_bytes(b"one")
    assert recall_spec(memory, EncoderRequest("m", str(weights), FP32)) is None
    remember_spec(memory, EncoderRequest("m", str(weights), FP32), {"a": 1}, weights)
    assert recall_spec(memory, EncoderRequest("m", str(weights), FP32)) == {"a": 1}
    assert recall_spec(memory, EncoderRequest("n", str(weights), FP32)) is None
    for other in (EncoderOptions(features="pooled"), STORED):
        assert recall_spec(memory, EncoderRequest("m", str(weights), other)) is None
    weights.write_bytes(b"another")
    assert recall_spec(memory, EncoderRequest("m", str(weights), FP32)) is None
    key = next(iter(json.loads(memory.read_text())))
    for damage in (b"{half", b"[]", b"\xff", json.dumps({key: {}}).encode(), json.dumps({key: 5}).encode()):
        memory.write_bytes(damage)
        assert recall_spec(memory, EncoderRequest("m", str(weights), FP32)) is None


def test_a_changed_tokenizer_outdates_the_spec_of_a_folder(tmp_path: Path) -> None:
    memory, wanted = tmp_path / "encoders.json", EncoderRequest(f"local-dir:{tmp_path / 'm'}", "", FP32)
    (tmp_path / "m").mkdir()
    for name in ("w.safetensors", "open_clip_config.json", "tokenizer.json"):
        (tmp_path / "m" / name).write_text("one")
    remember_spec(memory, wanted, {"a": 1}, tmp_path / "m" / "w.safetensors")
    assert recall_spec(memory, wanted) == {"a": 1}
    (tmp_path / "m" / "tokenizer.json").write_text("another")
    assert recall_spec(memory, wanted) is None
    remember_spec(memory, wanted, {"a": 1}, tmp_path / "m" / "w.safetensors")
    (tmp_path / "m" / "special_tokens_map.json").write_text("added")
    assert recall_spec(memory, wanted) is None


def test_a_file_called_like_a_tag_is_not_taken_for_it(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("laion400m_e31", "mine"):
        (tmp_path / name).write_bytes(b"w")
    with pytest.raises(EncoderUnavailable, match="could not be fetched"):
        find_weights("ViT-B-32", "laion400m_e31")
    with pytest.raises(EncoderUnavailable, match=r"the file of this name is \./mine"):
        find_weights("ViT-B-32", "mine")
    assert find_weights("ViT-B-32", "./mine")[1] == Path("mine")


def test_a_published_tag_comes_from_the_files_already_fetched(
    tmp_path: Path, offline: None, narrow: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after one download of `RN50 openai`; the weights are random, the lookup is real."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--resnet50_clip.openai"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    expected = saved_model("RN50-quickgelu", lambda state: save_file(state, snapshot / "open_clip_model.safetensors"))
    encoder = load_encoder("RN50", "openai", CPU, FP32)
    check_both_sides(encoder, expected)
    assert encoder.spec["model_config"]["quick_gelu"] is True
    assert encoder.weights.name == "open_clip_model.safetensors"
