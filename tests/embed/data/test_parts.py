"""A meme's part follows from its content, is on record, and stays, whatever comes later."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import picture, write_multioff
from PIL import Image

from cache import PARTS, Layout, content_key, part_of, read_index, read_parts, write_index
from embed.data import parts as module
from embed.data.memes import Meme
from embed.data.parts import assign_parts
from embed.job import embed_dataset
from embed.plan.settings import EmbedSettings

ENCODER = f"local-dir:{Path('demo/encoder').resolve()}"


def meme(number: int, text: str = "", label: int | None = None) -> Meme:
    return Meme(
        id=f"m{number}",
        image=f"{number}.png",
        text=text or f"words of number{number} alone{number}",
        label=number % 2 if label is None else label,
        split="train",
        where="table.csv:1",
        group="",
        problem="",
    )


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def assigned(folder: Path, memes: list[Meme], data: dict[str, bytes] | None = None) -> list[int]:
    """The parts of memes whose pictures are random, but for those given."""
    keys = {}
    for one in memes:
        content = (data or {}).get(one.image) or picture(int(one.id[1:]) + 7)
        (folder / one.image).write_bytes(content)
        keys[one.image] = content_key(content)
    return assign_parts(memes, keys, folder, folder / "splits" / "data.h5")


def test_parts_follow_from_content_and_not_from_order_or_number(tmp_path: Path) -> None:
    memes = [meme(number) for number in range(60)]
    found = dict(zip((one.id for one in memes), assigned(tmp_path, memes)))
    assert found == {one.id: part_of(content_key((tmp_path / one.image).read_bytes())) for one in memes}
    assert set(found.values()) == set(range(PARTS))
    other = tmp_path / "other"
    other.mkdir()
    some = memes[::-2]
    assert assigned(other, some) == [found[one.id] for one in some]


def test_old_memes_keep_their_part_and_a_new_near_copy_joins_the_older(tmp_path: Path) -> None:
    memes = [meme(number) for number in range(40)]
    before = assigned(tmp_path, memes)
    smooth = Image.open(io.BytesIO(picture(99))).convert("L").resize((96, 64), Image.Resampling.BICUBIC)
    first = [*memes, meme(40)]
    given = {"40.png": png(smooth), "41.png": png(smooth.point(lambda value: min(255, value + 1)))}
    parts = assigned(tmp_path, first, given)
    assert parts[:40] == before
    copies = [meme(41), meme(42, text=memes[5].text.upper() + "!"), *first, *(meme(number) for number in range(43, 60))]
    again = assigned(tmp_path, copies, given)
    assert again[2 : 2 + 41] == parts  # whatever comes, and in whatever order
    assert again[0] == parts[40] and again[1] == parts[5]  # by its picture, by its words


def test_a_bridge_between_two_groups_moves_neither(tmp_path: Path) -> None:
    memes = [meme(number) for number in range(30)]
    parts = assigned(tmp_path, memes)
    one = next(number for number in range(30) if parts[number] != parts[0])
    bridge = meme(30)._replace(text=memes[one].text)
    found = assigned(tmp_path, [*memes, bridge], {"30.png": (tmp_path / "0.png").read_bytes()})
    assert found[:30] == parts and found[30] == parts[0]


def test_the_first_two_parts_have_both_labels_where_memes_are_few(tmp_path: Path) -> None:
    memes = [meme(number, label=int(number < 3)) for number in range(12)]
    parts = np.array(assigned(tmp_path, memes))
    label = np.array([one.label for one in memes])
    assert all(set(label[parts == part]) == {0, 1} for part in (0, 1))
    assert assigned(tmp_path, memes) == parts.tolist()


def test_each_picture_is_hashed_once_and_what_cannot_be_decoded_is_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memes = [meme(number) for number in range(12)]
    data = {"0.png": b"no picture", "1.png": b"none either"}
    parts = assigned(tmp_path, memes, data)
    monkeypatch.setattr(module, "read_picture", lambda path: pytest.fail("was read again"))
    assert assigned(tmp_path, memes, data) == parts
    assert assign_parts(memes[:1], {}, tmp_path, tmp_path / "splits" / "data.h5") == [-1]


def test_what_many_share_makes_them_no_copies(tmp_path: Path) -> None:
    memes = [meme(number, text="one and the same words") for number in range(40)]
    assert len(set(assigned(tmp_path, memes))) == PARTS


def test_a_damaged_record_is_moved_aside_and_made_again(tmp_path: Path) -> None:
    memes = [meme(number) for number in range(20)]
    parts, file = assigned(tmp_path, memes), tmp_path / "splits" / "data.h5"
    file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    assert assigned(tmp_path, memes) == parts
    assert file.with_suffix(".damaged").exists() and len(read_parts(file).parts) == 20


def test_the_job_writes_them_for_all_encoders_and_leaves_an_older_index_as_it_is(tmp_path: Path) -> None:
    rows = [(f"m{i}.png", f"text number{i}", ("offensive", "Non-offensiv")[i % 2]) for i in range(20)]
    data, artifacts = write_multioff(tmp_path / "data", rows), tmp_path / "artifacts"
    settings = EmbedSettings(str(data), ENCODER, "", artifacts, "cpu")
    embed_dataset(settings, lambda _: None)
    index = read_index(settings.index)
    assert index.has_parts and index.parts == [part_of(key) for key in index.image_keys]
    assert len(read_parts(Layout(artifacts).splits(str(data))).parts) == 20

    write_index(settings.index, replace(index, parts=()))  # as it was before there were parts
    embed_dataset(settings, lambda _: None)
    assert not read_index(settings.index).has_parts
    write_multioff(data, [*rows, ("m20.png", "one more", "offensive")])
    embed_dataset(settings, lambda _: None)
    assert read_index(settings.index).parts[:20] == index.parts

    named = write_multioff(tmp_path / "named", rows)
    write_multioff(named, [("v.png", "of validation", "offensive")], "Validation")
    settings = replace(settings, data=str(named))
    embed_dataset(settings, lambda _: None)
    assert set(read_index(settings.index).parts) == {-1} and not Layout(artifacts).splits(str(named)).exists()
