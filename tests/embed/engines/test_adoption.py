"""Vectors of the spec without the field `picture`: kept where the picture is seen as it is stored."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from fakes import picture
from PIL import Image

import embed.clip.encoder
from cache import Segment, VectorStore, read_index
from cache.contents import rebuild_command
from embed.clip.options import EncoderOptions, older_spec
from embed.engines.adoption import adopt_vectors
from embed.job import Summary, embed_dataset
from embed.plan.settings import EmbedSettings


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(1))).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def transparent() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (24, 16), (9, 9, 9, 100)).save(buffer, "PNG")
    return buffer.getvalue()


SAME = {"rgb.png": picture(2), "opaque.png": picture(3, mode="RGBA"), "palette.png": picture(4, mode="P"),
        "jpeg.jpg": picture(5, format="JPEG")}  # fmt: skip
CHANGED = {"turned.jpg": turned(), "clear.png": transparent(), "grey16.png": picture(6, mode="I;16")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for name, content in (SAME | CHANGED | {"bad.png": picture()[:-500]}).items():
        (folder / name).write_bytes(content)
    rows = [
        {"img": path.name, "text": f"words {n}", "label": n % 2, "id": n}
        for n, path in enumerate(sorted(folder.iterdir()))
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def run(data: Path, picture: str, said: list[str]) -> Summary:
    options = EncoderOptions(precision="fp32", picture=picture)
    settings = EmbedSettings(str(data), "local-dir:demo/encoder", "", data.parent / "artifacts", "cpu", options)
    return embed_dataset(settings, say=said.append)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def rows(store: VectorStore, kind: str) -> dict[str, bytes]:
    keys = sorted(store.known(kind))
    return {key: row.tobytes() for key, row in zip(keys, store.read(kind, keys))}


def test_only_pictures_that_look_different_are_embedded_again(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    older = run(data, "stored", said).store
    before = contents(older.folder)
    first = run(data, "seen", said)
    assert [line for line in said if "again" in line] == [
        (
            "3 of 7 pictures are now judged as a person sees them, and are embedded again "
            "(16 bits or more 1, transparent 1, turned by EXIF 1); the vectors of the other 4 are kept"
        )
    ]
    assert first.work.embedded == {"image": 3, "text": 0} and first.work.cached == {"image": 4, "text": 8}
    assert contents(older.folder) == before and first.store.folder != older.folder
    for kind in ("image", "text"):
        was, now = rows(older, kind), rows(first.store, kind)
        assert was.keys() == now.keys()
        assert sum(was[key] != now[key] for key in was) == (3 if kind == "image" else 0)
    keys = list(older.known("text"))
    assert older.token_counts(keys).tolist() == first.store.token_counts(keys).tolist()
    (index,) = (data.parent / "artifacts" / "datasets").glob("*.h5")
    assert "PICTURE" not in rebuild_command(read_index(index).source)
    # as if there had been no older vectors
    fresh = embed_dataset(
        EmbedSettings(
            str(data), "local-dir:demo/encoder", "", data.parent / "fresh", "cpu", EncoderOptions(precision="fp32")
        ),
        say=said.append,
    ).store
    assert all(rows(fresh, kind) == rows(first.store, kind) for kind in ("image", "text"))
    said.clear()
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", None)
    assert run(data, "seen", said).work.embedded == {"image": 0, "text": 0}
    assert not any("again" in line or "kept" in line for line in said)


def test_a_data_set_without_such_pictures_is_said_to_be_kept_whole(data: Path) -> None:
    for name in (*CHANGED, "bad.png"):
        (data / name).unlink()
    said: list[str] = []
    run(data, "stored", said)
    assert run(data, "seen", said).work.embedded["image"] == 0
    assert "all 4 pictures are seen as before: their vectors are kept" in said


def test_an_older_bundle_can_go_on_with_its_own_spec(data: Path) -> None:
    """As fine-tuning one does, which embeds under the options of the bundle's spec."""
    said: list[str] = []
    older, newer = run(data, "stored", said), run(data, "seen", said)
    again = run(data, "stored", said)
    assert again.work.embedded == {"image": 0, "text": 0} and again.store.spec == older.store.spec
    assert older.store.spec == older_spec(newer.store.spec) != newer.store.spec


def test_a_file_that_is_not_the_hashed_one_is_not_adopted(tmp_path: Path) -> None:
    spec = {"decoder": {"exif_rotation": True}, "picture": {}}
    older, store = VectorStore(tmp_path / "v", older_spec(spec)), VectorStore(tmp_path / "v", spec)
    older.add("image", Segment(["3" * 64, "1" * 64], np.ones((2, 3), np.float32), np.zeros(2, np.int32)))
    (tmp_path / "a.png").write_bytes(picture())
    said: list[str] = []
    adopt_vectors(store, {"image": {"3" * 64: "a.png", "1" * 64: "gone.png"}, "text": {}}, tmp_path, said.append)
    assert not store.known("image") and "another file by now 1, unreadable by now 1" in said[0]
