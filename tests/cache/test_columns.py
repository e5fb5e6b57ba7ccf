"""Columns: what they hold reads like a list, in blocks, by slices and by rows."""

from typing import Any

import numpy as np
import pytest

from cache import KeyColumn, KeyTable, NumberColumn, TextColumn, columns, content_key

TEXTS = ["snow ☃ 雪 🤷", "", "a\nb\r\n", "nul \0 inside\0", "\ud800 lone, \udcff escaped", "\U0010ffff e\u0301", ""]
KEYS = [content_key(b"a"), "", content_key(b"b"), content_key(b"a"), ""]
NUMBERS = [3, -1, 0, 7]


@pytest.fixture(params=[1, 3, 100])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns whose blocks are shorter, equal and longer than they."""
    monkeypatch.setattr(columns, "_BLOCK", request.param)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize(
    ("made", "values"),
    [
        (TextColumn.of, TEXTS),
        (KeyColumn.of, KEYS),
        (lambda values: NumberColumn(np.array(values, np.int8)), NUMBERS),
    ],
)
def test_a_column_reads_like_a_list(made: Any, values: list[Any]) -> None:
    column = made(values)
    assert column == values and values == column and list(column) == values and len(column) == len(values)
    assert [column[at] for at in range(-len(values), len(values))] == values + values
    for part in (slice(1, 3), slice(None, None, -2), slice(5, 2), slice(0, 0)):
        assert column[part] == values[part] and type(column[part]) is type(column)
    rows = np.array([2, 0, 2])
    assert column.take(rows) == [values[row] for row in rows]
    assert column.take(np.arange(len(values)) > 1) == values[2:]
    assert made([]) == [] and not made([]) and made([]).take(np.array([], int)) == []
    assert column != [*values, values[0]] and column != [*values[:-1], "other"] and column != "text"
    with pytest.raises(IndexError):
        column[len(values)]
    with pytest.raises(IndexError):
        column.take(np.array([len(values)]))


def test_columns_are_not_made_again() -> None:
    for made, values in ((TextColumn.of, TEXTS), (KeyColumn.of, KEYS)):
        column = made(values)
        assert made(column) is column


def test_numbers_are_pythons_own_and_numpy_takes_the_column() -> None:
    column = NumberColumn(np.array(NUMBERS, np.float32))
    assert {type(value) for value in column} == {float} and np.isin(column, (3, 0)).tolist() == [
        True,
        False,
        True,
        False,
    ]


@pytest.mark.usefixtures("blocks")
def test_keys_are_held_as_texts_too() -> None:
    for keys in (KEYS, [], ["", ""]):
        texts = KeyColumn.of(keys).digits()
        assert texts == keys and KeyColumn.of_digits(texts) == keys
    for wrong in (["ab"], ["x" * 64], ["0" * 32, "0" * 32]):
        with pytest.raises(ValueError, match="hex"):
            KeyColumn.of_digits(TextColumn.of(wrong))


def test_no_key_is_a_row_of_zeros() -> None:
    column = KeyColumn.of(KEYS)
    assert column.raw.shape == (5, 32) and column.present.tolist() == [True, False, True, True, False]
    assert column.raw[0].tobytes().hex() == KEYS[0]


@pytest.mark.parametrize("wrong", ["x" * 64, "0" * 63, "ab", " " + "0" * 63])
def test_what_is_no_key_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"expected a key|non-hexadecimal|reshape"):
        KeyColumn.of([KEYS[0], wrong])


def test_texts_need_all_of_their_bytes() -> None:
    column = TextColumn.of(TEXTS)
    with pytest.raises(ValueError, match="buffer"):
        TextColumn(column.utf8[:-1], column.ends)


def test_a_column_is_small() -> None:
    """4 bytes a text beside its own, 32 a key."""
    texts, keys = TextColumn.of(["abc"] * 1000), KeyColumn.of([KEYS[0]] * 1000)
    assert texts.utf8.nbytes + texts.ends.nbytes == 7 * 1000 and keys.raw.nbytes == 32 * 1000


def test_keys_are_found_the_last_of_equal_ones() -> None:
    keys = [content_key(b"%d" % number) for number in (5, 1, 5, 2, 9, 1)]
    table = KeyTable(KeyColumn.of(keys))
    assert table.find(KeyColumn.of([*keys, "", content_key(b"none")])).tolist() == [2, 5, 2, 3, 4, 5, -1, -1]
    assert list(table.keys) == sorted(set(keys)) and len(table) == 4
    assert [keys[row] for row in table.rows] == sorted(set(keys))


@pytest.mark.parametrize("shared", [8, 16, 31])
def test_keys_with_a_common_beginning_are_told_apart(shared: int) -> None:
    rng = np.random.default_rng(shared)
    raw = rng.integers(0, 256, (60, 32), np.uint8)
    raw[:, :shared] = 7
    raw[30:] = raw[rng.permutation(30)]
    keys = list(KeyColumn(raw))
    table = KeyTable(KeyColumn(raw))
    last = {key: row for row, key in enumerate(keys)}
    assert table.find(KeyColumn(raw)).tolist() == [last[key] for key in keys]
    assert list(table.keys) == sorted(last)
    absent = [key for key in KeyColumn(raw ^ np.uint8(1)) if key not in last]
    assert set(table.find(KeyColumn.of(absent)).tolist()) <= {-1}


def test_an_empty_table_finds_nothing() -> None:
    table = KeyTable(KeyColumn.of([]))
    assert table.find(KeyColumn.of(KEYS)).tolist() == [-1] * 5 and len(table) == 0 and table.keys == []
