"""The real loading code on the demo encoder, and on full-size models with random weights."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from fakes import picture
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from embed.encoder import ClipEncoder, EncoderUnavailable, choose_device, load_encoder
from embed.recall import recall_spec, remember_spec

CPU = torch.device("cpu")
DEMO = "local-dir:demo/encoder"


@pytest.fixture(scope="module")
def demo() -> ClipEncoder:
    return load_encoder(DEMO, "", CPU)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "I;16"])
def test_vectors_equal_open_clips_own(demo: ClipEncoder, mode: str) -> None:
    clip, _, preprocess = open_clip.create_model_and_transforms(DEMO)
    tokenizer = open_clip.get_tokenizer(DEMO)
    clip.eval()
    data = picture(size=(150, 110), mode=mode)
    texts = ["short", "a long one " * 60]
    with torch.no_grad():
        image = clip.encode_image(preprocess(Image.open(io.BytesIO(data)))[None]).numpy()
        text = clip.encode_text(tokenizer(texts)).numpy()
    assert np.abs(demo.encode_images(demo.pixels(data)[None]) - image).max() <= 1e-5
    assert np.abs(demo.encode_texts(demo.tokens(texts)) - text).max() <= 1e-5


def test_token_count_is_that_before_the_cut(demo: ClipEncoder) -> None:
    assert demo.token_count("") == 2 and demo.token_count("one two three") == 5
    assert demo.token_count("word " * 300) == 302 and demo.tokens(["word " * 300]).shape == (1, 77)


def test_the_spec_names_what_could_change_a_vector(demo: ClipEncoder) -> None:
    assert demo.spec["weights_sha256"] == hashlib.sha256(demo.weights.read_bytes()).hexdigest()
    assert demo.spec["preprocess"]["interpolation"] == "bicubic"
    assert demo.spec["tokenizer"]["context_length"] == 77 and demo.spec["dtype"] == "float32"
    assert {"open_clip", "model_config", "decoder", "feature"} <= demo.spec.keys()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_file_of_a_full_size_model(tmp_path: Path, suffix: str) -> None:
    clip = open_clip.create_model("RN50", load_weights=False).eval()
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pt" else save_file)(clip.state_dict(), path)
    encoder = load_encoder("RN50", str(path), CPU)
    pixels = encoder.pixels(picture(size=(300, 200)))[None]
    with torch.no_grad():
        assert np.array_equal(encoder.encode_images(pixels), clip.encode_image(pixels).numpy())
    assert encoder.spec["model"] == "RN50" and encoder.weights == path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize(
    ("model", "pretrained", "complaint"),
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
    offline: None, model: str, pretrained: str, complaint: str
) -> None:
    with pytest.raises(EncoderUnavailable, match=complaint):
        load_encoder(model, pretrained, CPU)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 half a zip"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(EncoderUnavailable, match="could not be loaded as weights of RN50"):
        load_encoder("RN50", str(path), CPU)


def test_an_unreachable_hub_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> None:
            asked.append(url)
            raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("embed.encoder.get_session", Session)
    with pytest.raises(EncoderUnavailable, match="the hub does not answer"):
        load_encoder("ViT-B-32", "laion400m_e31", CPU)
    assert len(asked) == 1


def test_openai_tags_get_the_activation_they_were_trained_with() -> None:
    from embed.encoder import _resolve  # no weights here: what would be loaded is what can be tested

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embed.encoder.get_session", lambda: None)
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        patch.setattr("embed.encoder.open_clip.download_pretrained", lambda tag: "weights")
        assert _resolve("ViT-L-14", "openai")[0]["quick_gelu"] is True
        assert _resolve("ViT-L-14", "laion2b_s32b_b82k")[0]["quick_gelu"] is False


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
    assert recall_spec(memory, "m", str(weights)) is None
    remember_spec(memory, "m", str(weights), {"a": 1}, weights)
    assert recall_spec(memory, "m", str(weights)) == {"a": 1}
    assert recall_spec(memory, "n", str(weights)) is None
    weights.write_bytes(b"another")
    assert recall_spec(memory, "m", str(weights)) is None
    key = next(iter(json.loads(memory.read_text())))
    for damage in (b"{half", b"[]", b"\xff", json.dumps({key: {}}).encode(), json.dumps({key: 5}).encode()):
        memory.write_bytes(damage)
        assert recall_spec(memory, "m", str(weights)) is None


def test_a_published_tag_comes_from_the_files_already_fetched(
    tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that has fetched `RN50 openai` once; the weights are random, the way to them is the real one."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--resnet50_clip.openai"
    snapshot = repository / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    clip = open_clip.create_model("RN50-quickgelu", load_weights=False).eval()
    save_file(clip.state_dict(), snapshot / "open_clip_model.safetensors")
    encoder = load_encoder("RN50", "openai", CPU)
    pixels = encoder.pixels(picture(size=(300, 200)))[None]
    tokens = encoder.tokens(["a text"])
    with torch.no_grad():
        assert np.array_equal(encoder.encode_images(pixels), clip.encode_image(pixels).numpy())
        assert np.abs(encoder.encode_texts(tokens) - clip.encode_text(tokens).numpy()).max() <= 1e-5
    assert encoder.spec["model_config"]["quick_gelu"] is True
    assert encoder.weights.name == "open_clip_model.safetensors"
