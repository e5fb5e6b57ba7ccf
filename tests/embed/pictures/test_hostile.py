"""Hostile pictures and names: each is a skipped row that says why, in bounded time and memory; the good rows go on."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeEncoder, picture
from machine import PATIENCE
from PIL import Image

import embed.clip.encoder
from embed.data.dataset import read_dataset
from embed.job import embed_dataset
from embed.pictures.decoding import UnreadableImage, decode_picture
from embed.plan.settings import EmbedSettings

ROOT = Path(__file__).parents[3]


def encoded(size: tuple[int, int], format: str, mode: str = "L", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, format, **options)
    return buffer.getvalue()


def tiled_tiff(side: int) -> bytes:
    """A TIFF of 100 x 100 pixels that is stored in one deflated tile of `side` x `side`."""
    squeeze = zlib.compressobj(1)
    tile = b"".join(squeeze.compress(bytes(side)) for _ in range(side)) + squeeze.flush()
    place = 8 + 2 + 12 * 10 + 4
    tags = {256: 100, 257: 100, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: place, 325: len(tile)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tile


def many_scans(count: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = encoded((64, 64), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * count + data[-2:]


def many_blocks(count: int) -> bytes:
    """A GIF whose comment comes in blocks of one byte."""
    data = encoded((8, 8), "GIF")
    place = data.index(b",\0\0\0\0\x08\0\x08\0")
    return data[:place] + b"!\xfe" + b"\x01a" * count + b"\0" + data[place:]


def large_canvas(width: int, height: int) -> bytes:
    """A small WebP that claims a large canvas."""
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + canvas + encoded((16, 16), "WEBP", "RGB")[12:]
    return b"RIFF" + struct.pack("<I", len(body)) + body


def many_chunks(count: int) -> bytes:
    """A PNG with empty chunks before its pixels."""
    data = encoded((8, 8), "PNG")
    return data[:33] + struct.pack(">I4sI", 0, b"abCd", zlib.crc32(b"abCd")) * count + data[33:]


def turned_jpeg(side: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded((side, side), "JPEG", "RGB", exif=exif)


# Nearly as many pixels as are allowed, each kind with something to do for it: black on nothing, floats, turned.
LARGEST: dict[str, Callable[[], bytes]] = {
    "rgba.png": lambda: encoded((7_900, 7_900), "PNG", "RGBA", compress_level=1),
    "grey16.png": lambda: encoded((7_900, 7_900), "PNG", "I;16", compress_level=1),
    "float.tiff": lambda: encoded((7_900, 7_900), "TIFF", "F", compression="tiff_deflate"),
    "turned.jpeg": lambda: turned_jpeg(7_900),
}

BOMBS: dict[str, Callable[[], bytes]] = {
    "png": lambda: encoded((9_000, 9_000), "PNG", "1"),
    "gif": lambda: encoded((60_000, 1_200), "GIF"),
    "webp": lambda: encoded((8_500, 8_500), "WEBP", "RGB", lossless=True, method=0),
    "canvas.webp": lambda: large_canvas(1 << 24, 200),
    "tiff": lambda: encoded((9_000, 9_000), "TIFF", "1", compression="group4"),
    "tiles.tiff": lambda: tiled_tiff(20_000),
    "bmp": lambda: b"BM" + bytes(8) + struct.pack("<IIiiHH", 54, 40, 60_000, 60_000, 1, 24) + bytes(24),
    "scans.jpeg": lambda: many_scans(40_000),
    "blocks.gif": lambda: many_blocks(2_000_000),
    "chunks.png": lambda: many_chunks(2_000_000),
    "long.png": lambda: encoded((60_000, 1), "PNG", "1"),
}

# The high-water mark of its own memory, in kB, after each file; a child's `ru_maxrss` would count its parent's.
DECODE = """
import sys, time
from pathlib import Path
from embed.pictures.decoding import UnreadableImage, decode_picture
for name in sys.argv[1:]:
    data, started, said = Path(name).read_bytes(), time.process_time(), "decoded"
    try:
        decode_picture(data)
    except UnreadableImage as error:
        said = "refused: " + str(error)
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(Path(name).name, peak, time.process_time() - started, said, sep="|")
"""


def measured(folder: Path, files: dict[str, Callable[[], bytes]]) -> list[tuple[str, int, float, str]]:
    """(name, peak in kB, seconds of the processor, what became of it) of each file, in a process of its own."""
    for name, make in files.items():
        (folder / name).write_bytes(make())
    ran = subprocess.run(
        [sys.executable, "-c", DECODE, *(str(folder / name) for name in files)],
        cwd=ROOT, capture_output=True, text=True, timeout=5 * PATIENCE, check=False,
    )  # fmt: skip
    lines = [line.split("|") for line in ran.stdout.splitlines()]
    assert [line[0] for line in lines] == list(files), ran.stderr
    return [(name, int(peak), float(seconds), said) for name, peak, seconds, said in lines]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
def test_bombs_take_little_memory_and_time(tmp_path: Path) -> None:
    for name, peak_kb, seconds, said in measured(tmp_path, BOMBS):
        assert said.startswith("refused: "), name
        assert peak_kb < 200_000, name
        assert seconds < 30, name


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux' /proc")
def test_the_largest_pictures_are_turned_and_flattened_in_bounded_memory_and_time(tmp_path: Path) -> None:
    for name, peak_kb, seconds, said in measured(tmp_path, LARGEST):
        assert said == "decoded", name
        assert peak_kb < 650_000, name
        assert seconds < 30, name


@pytest.mark.parametrize(
    ("data", "size"),
    [(many_scans(50), (64, 64)), (many_blocks(1000), (8, 8)), (tiled_tiff(256), (100, 100))],
)
def test_what_only_looks_like_a_bomb_is_decoded(data: bytes, size: tuple[int, int]) -> None:
    assert decode_picture(data).size == size


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_every_truncation_is_refused_or_whole(format: str) -> None:
    whole = picture(size=(16, 12), format=format)
    pixels = decode_picture(whole).convert("RGB").tobytes()
    for end in range(0, len(whole), 7):
        try:
            cut = decode_picture(whole[:end])
        except UnreadableImage:
            continue
        # what is cut off after the last pixel does not matter
        assert cut.convert("RGB").tobytes() == pixels, end


def hostile_folder(tmp_path: Path) -> dict[str, str]:
    """Fill tmp_path/data; return {name in the table: what its row must say, "" for a good one}."""
    data, outside = tmp_path / "data", tmp_path / "outside"
    (data / "img").mkdir(parents=True)
    outside.mkdir()
    (outside / "secret.png").write_bytes(picture(1))
    (data / "img" / "bomb.png").write_bytes(encoded((9_000, 9_000), "PNG", "1"))
    (data / "img" / "cut.png").write_bytes(picture(2)[:-500])
    (data / "img" / "words.png").write_bytes(b"hello")
    (data / "img" / "empty.png").write_bytes(b"")
    with (data / "img" / "sparse.png").open("wb") as file:
        file.truncate(2_000_000_000)
    (data / "img" / "folder.png").mkdir()
    os.mkfifo(data / "img" / "pipe.png")
    (data / "img" / "link.png").symlink_to(outside / "secret.png")
    (data / "elsewhere").symlink_to(outside)
    (data / "img" / "loop.png").symlink_to("loop.png")
    (data / "img" / "dangling.png").symlink_to("nothing.png")
    (data / "img" / "good.png").write_bytes(picture(3))
    (data / "img" / "inner.png").symlink_to("good.png")
    (data / "again").symlink_to("img")
    good = ["img/good.png", "img/inner.png", "again/good.png", "./img//good.png"]
    for name in ("-rf.png", "two\nlines.png", "\x1b[2J.png", "\u202egnp.png", "a" * 250 + ".png"):
        (data / "img" / name).write_bytes(picture(4))
        good.append(f"img/{name}")
    bad = {
        "img/bomb.png": "more than 64,000,000 pixels",
        "img/cut.png": "cut off or damaged",
        "img/words.png": "not an image",
        "img/empty.png": "empty",
        "img/sparse.png": "2,000,000,000 bytes",
        "img/folder.png": "is a folder",
        "img/pipe.png": "named pipe",
        "img/link.png": "a link that leads out of the data folder; put the files themselves there",
        "elsewhere/secret.png": "a folder on its path is a link out of the data folder",
        "img/loop.png": "cannot be looked up",
        "img/dangling.png": "no such file",
        "../outside/secret.png": "leads out of the data folder",
        str(outside / "secret.png"): "leads out of the data folder",
        "img/" + "b" * 300 + ".png": "cannot be looked up (File name too long)",
        "x/" * 3000 + "b.png": "cannot be looked up (File name too long)",
        "lone \ud83d.png": "no such file",
        "nul\0.png": "no such file",
        ".": "is a folder",
    }
    return dict.fromkeys(good, "") | bad


def write_table(data: Path, names: list[str]) -> None:
    lines = [json.dumps({"img": name, "text": f"text {n}", "label": n % 2, "id": n}) for n, name in enumerate(names)]
    (data / "train.jsonl").write_text("\n".join(lines), "utf-8")


def test_the_job_skips_what_is_hostile_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = hostile_folder(tmp_path)
    write_table(tmp_path / "data", list(expected))
    (tmp_path / "weights").write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_, **__: FakeEncoder(tmp_path / "weights"))
    settings = EmbedSettings(data=str(tmp_path / "data"), model="fake", artifacts=tmp_path / "artifacts")
    started = time.process_time()
    summary = embed_dataset(settings, say=lambda note: None)
    assert time.process_time() - started < 60
    said = {id: reason for id, _, reason in summary.skipped}
    for number, (name, reason) in enumerate(expected.items()):
        assert reason in said.get(str(number), "") and bool(reason) == (str(number) in said), name
    assert summary.work.embedded["image"] == 2  # the good ones are two pictures under several names


def test_links_within_the_folder_and_a_data_folder_that_is_a_link_are_fine(tmp_path: Path) -> None:
    hostile_folder(tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    write_table(tmp_path / "data", ["again/inner.png"])
    assert [meme.problem for meme in read_dataset(tmp_path / "alias")[1]] == [""]


def test_links_are_followed_once_per_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "img").mkdir()
    names = [f"img/{n}.png" for n in range(200)]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    write_table(tmp_path, names)
    followed: list[str] = []
    realpath = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path: followed.append(str(path)) or realpath(path))
    assert not any(meme.problem for meme in read_dataset(tmp_path)[1])
    assert len(followed) <= 3


def test_an_id_that_every_row_has_takes_no_quadratic_time(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    rows = [f"a.png,text {n},1" for n in range(20_000)]
    (tmp_path / "memes.csv").write_text("\n".join(["image,text,label", *rows]), "utf-8")
    started = time.process_time()
    memes = read_dataset(tmp_path)[1]
    assert time.process_time() - started < 10
    assert len({meme.id for meme in memes}) == 20_000 and memes[-1].id == "a.png#20000"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_table_that_is_no_file_is_not_waited_for(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "train.csv")
    (tmp_path / "memes.csv").write_text("image,text,label\na.png,hi,1\n", "utf-8")
    assert [meme.text for meme in read_dataset(tmp_path)[1]] == ["hi"]
