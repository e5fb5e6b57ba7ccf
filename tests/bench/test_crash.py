"""The kill test in small: the same function as `python -m bench.crash`, one kill, forty memes."""

from pathlib import Path

import pytest
from fakes import memes, write_multioff

from bench.crash import Disk, compare, crash


def test_killed_jobs_lose_nothing_and_make_nothing_twice(tmp_path: Path) -> None:
    found = crash(write_multioff(tmp_path / "data", memes(40)), tmp_path / "work", kills=1)
    assert found["wrong"] == []
    assert found["kills"] == 1
    assert found["vectors"] == 80


def test_merged_segments_are_not_made_again() -> None:
    parts = {"image-a.h5": [b"1"], "image-b.h5": [b"2"]}
    for after in ({"image-c.h5": [b"1", b"2", b"3"]}, {**parts, "image-c.h5": [b"1", b"2"]}):
        assert compare(Disk(parts, {}), Disk(after, {})) == []
    assert Disk({**parts, "image-c.h5": [b"1", b"2"]}, {}).rows == 2


@pytest.mark.parametrize(
    ("after", "wrong"),
    [
        ({"image-a.h5": [b"1"], "text-b.h5": [b"1"]}, []),
        ({"text-b.h5": [b"1"]}, ["1 image rows that were on disk are gone"]),
        ({"image-a.h5": [b"1", b"2", b"2"]}, ["1 image rows are there twice"]),
        (
            {"image-a.h5": [b"1"], "image-c.h5": [b"1"]},
            ["1 image rows are there twice", "1 image rows that were on disk were made again"],
        ),
    ],
)
def test_what_a_kill_must_not_do_is_seen(after: dict[str, list[bytes]], wrong: list[str]) -> None:
    assert compare(Disk({"image-a.h5": [b"1"]}, {}), Disk(after, {})) == wrong


def test_a_segment_that_is_written_again_is_seen() -> None:
    keys = {"image-a.h5": [b"1"]}
    assert compare(Disk(keys, {"image-a.h5": (1,)}), Disk(keys, {"image-a.h5": (2,)})) == [
        "1 segments were written again"
    ]
