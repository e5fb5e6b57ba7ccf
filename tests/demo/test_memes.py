"""The shipped demo data set has the properties that its README promises."""

import csv
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from demo.plan import NASTY, NICE, PlannedMeme, plan_memes

MEMES = Path(__file__).parents[2] / "demo" / "memes"
IMAGES = MEMES / "Labelled Images"
SPLITS = {"Training": 400, "Validation": 120, "Testing": 200}
LABELS = {"offensive", "Non-offensiv"}


def _rows(split: str) -> list[dict[str, str]]:
    with (MEMES / "Split Dataset" / f"{split}_meme_dataset.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plan() -> list[PlannedMeme]:
    return plan_memes(20)  # the default seed of `python -m demo.draw`


def _halves(keys_and_labels: list[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    counts = Counter(keys_and_labels)
    return {key: (counts[key, "offensive"], counts[key, "Non-offensiv"]) for key, _ in keys_and_labels}


@pytest.mark.parametrize(("split", "count"), SPLITS.items())
def test_table_has_its_rows_columns_and_labels(split: str, count: int) -> None:
    rows = _rows(split)
    assert list(rows[0]) == ["image_name", "sentence", "label"]
    assert len(rows) == count
    assert Counter(row["label"] for row in rows) == dict.fromkeys(LABELS, count // 2)


def test_each_listed_picture_is_there_once_and_no_other() -> None:
    listed = [row["image_name"] for split in SPLITS for row in _rows(split)]
    assert sorted(listed) == sorted(path.name for path in IMAGES.iterdir())
    assert len({name.lower() for name in listed}) == len(listed)


def test_folder_is_at_most_10_mb() -> None:
    assert sum(path.stat().st_size for path in MEMES.rglob("*") if path.is_file()) <= 10e6


@pytest.mark.parametrize("split", SPLITS)
def test_each_sentence_stands_over_two_pictures_with_opposite_labels(split: str) -> None:
    halves = _halves([(row["sentence"], row["label"]) for row in _rows(split)])
    assert all(offensive == other for offensive, other in halves.values())
    assert sum(pair == (1, 1) for pair in halves.values()) >= 0.9 * len(halves)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("field", ["picture_seed", "subject", "layout", "kind", "size", "background", "pattern"])
def test_each_property_of_pictures_stands_under_both_labels_equally(
    plan: list[PlannedMeme], split: str, field: str
) -> None:
    halves = _halves([(str(getattr(meme, field)), meme.label) for meme in plan if meme.split == split])
    assert all(offensive == other for offensive, other in halves.values())


def test_shipped_tables_are_those_of_the_plan(plan: list[PlannedMeme]) -> None:
    for split in SPLITS:
        planned = [(meme.image_name, meme.sentence, meme.label) for meme in plan if meme.split == split]
        assert [tuple(row.values()) for row in _rows(split)] == planned


def test_label_follows_the_rule(plan: list[PlannedMeme]) -> None:
    by_sentence: dict[str, set[bool]] = defaultdict(set)
    for meme in plan:
        assert meme.subject in NICE + NASTY
        by_sentence[meme.sentence].add((meme.label == "offensive") == (meme.subject in NASTY))
    assert all(len(stances) == 1 for stances in by_sentence.values())  # a sentence affirms or denies, wherever it is
    assert sum(affirms for stances in by_sentence.values() for affirms in stances) == len(by_sentence) / 2


def test_test_sentences_and_pictures_stand_in_no_other_split(plan: list[PlannedMeme]) -> None:
    for field in ("sentence", "picture_seed"):
        test = {getattr(meme, field) for meme in plan if meme.split == "Testing"}
        assert not test & {getattr(meme, field) for meme in plan if meme.split != "Testing"}


def test_copies_are_smaller_keep_their_label_and_leave_their_split_four_times(plan: list[PlannedMeme]) -> None:
    by_name = {meme.image_name: meme for meme in plan}
    copies = [meme for meme in plan if meme.copy_of]
    ways = Counter((by_name[copy.copy_of].split, copy.split) for copy in copies if copy.copy_of)
    assert ways == {("Training", "Training"): 8, ("Training", "Validation"): 4}
    for copy in copies:
        original = by_name[copy.copy_of or ""]
        assert (copy.sentence, copy.label) == (original.sentence, original.label)
        with Image.open(IMAGES / copy.image_name) as small, Image.open(IMAGES / original.image_name) as large:
            assert small.size == (large.width * 3 // 4, large.height * 3 // 4)


def test_real_life_file_kinds_are_there() -> None:
    kinds = set()
    sizes = set()
    for path in IMAGES.iterdir():
        with Image.open(path) as image:
            kinds.add((path.suffix, image.format, image.mode))
            sizes.add(image.size)
    assert {
        (".jpg", "JPEG", "RGB"),
        (".jpg", "JPEG", "L"),
        (".png", "JPEG", "RGB"),
        (".png", "PNG", "RGB"),
        (".png", "PNG", "RGBA"),
        (".png", "PNG", "P"),
        (".webp", "WEBP", "RGB"),
    } <= kinds
    assert len(sizes) >= 10
    assert any(width % 2 and height % 2 for width, height in sizes)
