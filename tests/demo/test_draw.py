"""Drawing the demo data set: the same seed gives the same pixels, and wrong arguments are refused."""

import random
from pathlib import Path

import pytest
from PIL import ImageChops

from demo.draw import draw_meme, write_data_set
from demo.plan import Counts, plan_memes
from demo.scenes import LAYOUTS, PATTERNS, Style, draw_picture, write_caption
from demo.subjects import SUBJECTS
from demo.words import write_sentences

SMALL = Counts(6, 5, 5, 1, 1)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_same_generator_state_gives_the_same_pixels(subject: str) -> None:
    style = Style((96, 80), "dots", crossed=True)
    first, second, other = (draw_picture(subject, "blue", style, random.Random(seed)) for seed in (1, 1, 2))
    assert first.size == (96, 80)
    assert first.tobytes() == second.tobytes() != other.tobytes()


def test_a_cross_changes_only_the_strokes_over_the_subject() -> None:
    plain, crossed = (
        draw_picture("rose", "blue", Style((96, 96), "plain", crossed), random.Random(1)) for crossed in (False, True)
    )
    box = ImageChops.difference(plain, crossed).getbbox()
    assert box is not None
    assert box[0] > 0
    assert box[1] > 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_caption_is_written_on_a_copy(layout: str, pattern: str) -> None:
    picture = draw_picture("snail", "green", Style((120, 90), pattern), random.Random(3))
    before = picture.tobytes()
    meme = write_caption(picture, "this reminds me of you", layout)
    assert picture.tobytes() == before
    assert meme.width == 120
    assert meme.height > 90 if layout == "bar" else meme.height == 90
    assert meme.tobytes() != before


def test_unknown_layout_pattern_and_size_are_named() -> None:
    picture = draw_picture("sun", "pink", Style((64, 64)), random.Random(1))
    with pytest.raises(ValueError, match="sideways"):
        write_caption(picture, "hello", "sideways")
    with pytest.raises(ValueError, match="tartan"):
        Style(pattern="tartan")
    with pytest.raises(ValueError, match="at least 32"):
        Style((8, 64))


def test_same_seed_gives_the_same_plan_and_memes() -> None:
    first, second = plan_memes(7, SMALL), plan_memes(7, SMALL)
    assert first == second != plan_memes(8, SMALL)
    assert [draw_meme(m).tobytes() for m in first[:8]] == [draw_meme(m).tobytes() for m in second[:8]]


def test_a_folder_with_pictures_is_not_written_into(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memes = plan_memes(7, SMALL)[:4]
    write_data_set(memes, tmp_path / "memes")
    assert len(list((tmp_path / "memes" / "Labelled Images").iterdir())) == 4
    with pytest.raises(FileExistsError):
        write_data_set(memes, tmp_path / "memes")
    assert capsys.readouterr().out == ""  # progress goes to stderr


def test_plan_refuses_counts_without_room_for_each_file_kind() -> None:
    with pytest.raises(ValueError, match="at least 5 blocks"):
        Counts(4, 5, 5)
    with pytest.raises(ValueError, match="more copies"):
        Counts(6, 5, 5, 2, 1)


def test_sentences_are_distinct_and_a_request_for_too_many_is_refused() -> None:
    sentences = write_sentences("deny", 200, random.Random(1))
    assert len(set(sentences)) == 200
    with pytest.raises(ValueError, match="were asked for"):
        write_sentences("deny", 10**6, random.Random(1))
