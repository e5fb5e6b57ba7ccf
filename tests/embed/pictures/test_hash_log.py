"""What a killed run has hashed is not hashed again, and what is noted never outlives its truth."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes import FakeEncoder, memes, picture, write_multioff
from machine import until

import embed.clip.encoder
import embed.engines.prepare  # takes its own read_picture before a test changes that of hashing
import embed.pictures.hashing
from embed.job import Summary, embed_dataset
from embed.pictures.hash_log import HashLog
from embed.pictures.hints import Hints, Triple
from embed.pictures.keys import Hashed, hash_pictures
from embed.plan.settings import EmbedSettings

STAMPED = [("a.png", "1 2 3", "1" * 64), ("b\udc80\n.png", "4 5 6", "2" * 64)]


def noted(tmp_path: Path, images: str = "") -> HashLog:
    return HashLog(tmp_path / "datasets" / "memes.v1.h5", images)


def read_back(tmp_path: Path, images: str = "") -> list[Triple]:
    return list(noted(tmp_path, images).read())


def sidecar(tmp_path: Path) -> Path:
    return tmp_path / "datasets" / "memes.v1.hashed.jsonl"


def test_what_is_noted_is_read_by_the_next_run_until_it_is_forgotten(tmp_path: Path) -> None:
    assert read_back(tmp_path) == []
    noted(tmp_path).add(STAMPED[:1])
    noted(tmp_path).add(STAMPED[1:])
    assert read_back(tmp_path) == STAMPED
    noted(tmp_path).add([("a.png", "7", "3" * 64)])
    stamps, keys = noted(tmp_path).read().find(["a.png", "none"])
    assert stamps == ["7", ""] and keys == ["3" * 64, ""]
    noted(tmp_path).forget()
    noted(tmp_path).forget()
    assert read_back(tmp_path) == [] and not sidecar(tmp_path).exists()


def test_hashes_of_pictures_from_another_place_are_not_believed(tmp_path: Path) -> None:
    noted(tmp_path, "s3://one").add(STAMPED)
    assert read_back(tmp_path, "s3://two") == read_back(tmp_path) == []


def test_every_torn_end_loses_no_line_but_the_last(tmp_path: Path) -> None:
    noted(tmp_path).add(STAMPED[:1])
    first = sidecar(tmp_path).stat().st_size
    noted(tmp_path).add(STAMPED[1:])
    whole = sidecar(tmp_path).read_bytes()
    for end in range(first, len(whole) - 2):
        sidecar(tmp_path).write_bytes(whole[:end])
        assert read_back(tmp_path) == STAMPED[:1]
        noted(tmp_path).add(STAMPED[1:])
        assert read_back(tmp_path) == STAMPED


@pytest.mark.parametrize("line", ["[]", "7", '{"images": ""}', '{"images": "", "hashed": [[1]]}', "\xff"])
def test_lines_of_anything_are_passed_over(tmp_path: Path, line: str) -> None:
    noted(tmp_path).add(STAMPED)
    with sidecar(tmp_path).open("ab") as file:
        file.write(line.encode("latin-1"))
    assert read_back(tmp_path) == STAMPED


def test_only_what_was_read_is_noted(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    names = ["0.png", "1.png", "2.png", "gone.png"]
    first = hash_pictures(tmp_path, names)
    parts: list[list[Triple]] = []
    hints = Hints.of(zip(names[:2], first.stamps, first.keys))
    assert hash_pictures(tmp_path, names, hints, note=parts.append) == first
    assert parts == [[("2.png", first.stamps[2], first.keys[2])]]
    again = hash_pictures(tmp_path, ["1.png", "", "1.png", "gone.png", "gone.png"], hints, note=parts.append)
    assert again.keys == [first.keys[1], "", first.keys[1], "", ""] and len(parts) == 1
    assert [bool(problem) for problem in again.problems] == [False, False, False, True, True]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Summary]:
    (tmp_path / "weights").write_bytes(b"w")
    monkeypatch.setattr(embed.clip.encoder, "load_encoder", lambda *_: FakeEncoder(tmp_path / "weights"))
    settings = {"data": str(tmp_path / "data"), "model": "fake", "artifacts": tmp_path / "artifacts"}
    return lambda **changes: embed_dataset(EmbedSettings(**{**settings, **changes}), say=lambda note: None)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The pictures that are read to be hashed."""
    paths: list[Path] = []
    whole = embed.pictures.hashing.read_picture

    def noting(path: Path) -> bytes:
        paths.append(path)
        return whole(path)

    monkeypatch.setattr(embed.pictures.hashing, "read_picture", noting)
    return paths


_KILLED = """
import itertools, signal, sys, time
from pathlib import Path
import embed.base.threads
import embed.pictures.hashing
import embed.engines.prepare  # takes its own read_picture before a test changes that of hashing
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job begins with it ignored
embed.base.threads.cores = lambda: 1
embed.pictures.keys._FILES_AT_ONCE = 4
whole = embed.pictures.hashing.read_picture
data, artifacts = sys.argv[1:]
number, go_on = itertools.count(), Path(artifacts, "go-on")
def read(path):
    while next(number) > 100 and not go_on.exists():
        time.sleep(0.01)
    return whole(path)
embed.pictures.hashing.read_picture = read
embed_dataset(EmbedSettings(data, "fake", artifacts=Path(artifacts)), say=print)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_is_gone_on_with(
    tmp_path: Path, run: Callable[..., Summary], read: list[Path], how: signal.Signals
) -> None:
    data = write_multioff(tmp_path / "data", memes(120))
    command = [sys.executable, "-c", _KILLED, str(data), str(tmp_path / "artifacts")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", "tests"])}
    go_on = tmp_path / "artifacts" / "go-on"

    def noted() -> list[Path]:
        return list(tmp_path.glob("artifacts/datasets/*.hashed.jsonl"))

    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: sum(path.read_bytes().count(b"images") for path in noted()) >= 5)
            process.send_signal(how)
            time.sleep(0.5)  # so that it ends by the signal, and not because its work is done
        finally:
            go_on.parent.mkdir(exist_ok=True)
            go_on.touch()
    (there,) = noted()
    lines = [json.loads(line) for line in there.read_text().splitlines() if line.endswith("}")]
    known = {image for line in lines for image, _, _ in line["hashed"]}
    assert 20 <= len(known) < 120
    assert run().work.distinct["image"] == 120
    assert {path.relative_to(data).as_posix() for path in read}.isdisjoint(known) and len(read) == 120 - len(known)
    assert not there.exists()
    assert run(rehash=True).work.embedded == {"image": 0, "text": 0} and len(read) == 240 - len(known)


def test_a_picture_that_changed_after_it_was_noted_is_hashed_anew(
    tmp_path: Path, run: Callable[..., Summary], read: list[Path]
) -> None:
    data = write_multioff(tmp_path / "data", memes(9))
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts")
    names = [f"Labelled Images/m{n}.png" for n in range(9)]
    before: Hashed = hash_pictures(data, names, note=HashLog(settings.index, "").add)
    (data / names[3]).write_bytes(picture(99))
    read.clear()
    run()
    assert read == [data / names[3]] and before.keys[3] != hash_pictures(data, names).keys[3]


def test_rehash_distrusts_what_is_noted(tmp_path: Path, run: Callable[..., Summary], read: list[Path]) -> None:
    data = write_multioff(tmp_path / "data", memes(3))
    settings = EmbedSettings(str(data), "fake", artifacts=tmp_path / "artifacts")
    hash_pictures(data, [f"Labelled Images/m{n}.png" for n in range(3)], note=HashLog(settings.index, "").add)
    read.clear()
    run(rehash=True)
    assert len(read) == 3


def test_pictures_from_another_place_are_read_anew(
    tmp_path: Path, run: Callable[..., Summary], read: list[Path]
) -> None:
    data = write_multioff(tmp_path / "data", memes(3))
    run()
    run()
    assert len(read) == 3
    run(images=str(data / "Labelled Images"))
    assert len(read) == 6
    run(images=str(data / "Labelled Images"))
    assert len(read) == 6
