"""Thumbnails of the data folder; none for pictures that are missing, unreadable or outside of it."""

import base64
import io
import os
from pathlib import Path

import pytest
from fakes import picture, write_multioff
from PIL import Image

from report.pictures import thumbnails


def opened(uri: str) -> Image.Image:
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_multioff(tmp_path / "data", [("a.png", "text", "offensive")])


@pytest.mark.parametrize("name", ["a.png", "Labelled Images/a.png"])
def test_a_picture_is_found_by_name_or_path(data: Path, name: str) -> None:
    assert opened(thumbnails(str(data), [name, name])[name]).size == (24, 16)


def test_a_large_picture_is_scaled_down(data: Path) -> None:
    (data / "large.png").write_bytes(picture(size=(1600, 800)))
    uri = thumbnails(str(data), ["large.png"])["large.png"]
    assert opened(uri).size == (320, 160)


def test_pictures_of_a_single_table(data: Path) -> None:
    table = data / "Split Dataset" / "Training_meme_dataset.csv"
    (table.parent / "b.png").write_bytes(picture())
    assert list(thumbnails(str(table), ["b.png"])) == ["b.png"]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16"])
def test_every_image_mode(data: Path, mode: str) -> None:
    Image.new(mode, (9, 9)).save(data / "x.tif", "TIFF")
    assert opened(thumbnails(str(data), ["x.tif"])["x.tif"]).mode == "RGB"


def test_pictures_outside_or_unreadable_are_left_out(data: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(picture())
    (data / "out.png").symlink_to(tmp_path / "secret.png")
    (data / "text.png").write_text("no picture")
    (data / "cut.png").write_bytes(picture(size=(200, 200))[:900])
    os.mkfifo(data / "pipe.png")
    names = ["../secret.png", str(tmp_path / "secret.png"), "out.png", "text.png", "cut.png", "pipe.png", "gone.png",
             "nul\0.png", "", "x" * 5000, "Labelled Images"]  # fmt: skip
    assert list(thumbnails(str(data), [*names, "a.png"])) == ["a.png"]


@pytest.mark.parametrize("folder", ["", "nowhere", "nul\0"])
def test_no_data_folder_no_picture(data: Path, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    assert thumbnails(folder, ["a.png"]) == {}
