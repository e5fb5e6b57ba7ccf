"""The audit's findings: problems of single rows, and groups of duplicate or near-duplicate rows.

Computed from rows, decoded pictures and texts; `embed.audit.command` reads the files and prints the findings.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np

from cache import text_key
from embed.base.errors import RowError
from embed.data.labels import LABEL_NAMES, UNLABELLED
from embed.data.memes import Meme
from embed.data.near_duplicates import differing_bits, near_pictures, near_texts, shared_words, words


@dataclass(frozen=True)
class PictureCheck:
    """One decoded picture file. key: SHA-256 of its bytes; problem: "" or why it cannot be read.

    hash: perceptual hash, (4,) uint64, None for a picture of one colour; changes: "" or what is
    done for a picture that is not judged as it is stored.
    """

    key: str = ""
    problem: str = ""
    hash: np.ndarray | None = None
    changes: str = ""


@dataclass(frozen=True)
class OddRow:
    """One row and its problem; image: "" where the row names none."""

    where: str
    reason: str
    id: str = ""
    image: str = ""


@dataclass(frozen=True)
class Group:
    """Rows with duplicate or near-duplicate ids, pictures or texts; note: how similar they are."""

    memes: list[Meme]
    note: str = ""

    @property
    def splits(self) -> list[str]:
        """The splits of its rows, in their order."""
        return list(dict.fromkeys(meme.split for meme in self.memes))

    @property
    def conflict(self) -> bool:
        """Whether its memes have different labels."""
        return {0, 1} <= {meme.label for meme in self.memes}


@dataclass(frozen=True)
class Finding:
    """title: the kind of problem; advice: its effect on embedding or training; rows, or groups of rows."""

    name: str
    title: str
    advice: str
    rows: list[OddRow] = field(default_factory=list)
    groups: list[Group] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows) + len(self.groups)


def row_findings(
    memes: Sequence[Meme], row_errors: Sequence[RowError], checks: dict[str, PictureCheck]
) -> list[Finding]:
    """Problems of single rows; checks: {image: check} of all existing pictures."""
    unreadable = [(meme, checks[meme.image].problem) for meme in memes if meme.image in checks]
    changed = [(meme, checks.get(meme.image, PictureCheck()).changes) for meme in memes]
    blank = (meme for meme in memes if (check := checks.get(meme.image)) and not check.problem and check.hash is None)
    return [
        Finding(
            "refused_rows", "rows that cannot be read", "embedding stops at the first; fix or delete them",
            [OddRow(row_error.where, row_error.reason) for row_error in row_errors],
        ),
        Finding(
            "missing_pictures", "pictures that are missing", "skipped",
            _rows_with((meme, meme.problem) for meme in memes if meme.problem),
        ),
        Finding(
            "unreadable_pictures", "pictures that cannot be decoded", "skipped",
            _rows_with((meme, problem) for meme, problem in unreadable if problem),
        ),
        Finding(
            "changed_pictures", "pictures that are not judged as stored", "upright, in 8 bits, on white, as a person sees them",
            _rows_with((meme, changes) for meme, changes in changed if changes),
        ),
        Finding(
            "blank_pictures", "pictures of one colour", "embedded, without information",
            _rows_with((meme, "nothing to see") for meme in blank),
        ),
        Finding(
            "unlabelled", "rows without a label", "embedded, not trained on",
            _rows_with((meme, "no label") for meme in memes if meme.label == UNLABELLED),
        ),
        Finding(
            "disagreement", "rows whose annotators disagree", "the majority counts; a tie is unlabelled",
            _rows_with((meme, f"{meme.agreement:.0%} agree") for meme in memes if meme.agreement < 1),
        ),
        Finding(
            "empty_texts", "rows with an empty text", "embedded; only the picture has information",
            _rows_with((meme, "no text") for meme in memes if not meme.text),
        ),
    ]  # fmt: skip


def duplicate_findings(memes: Sequence[Meme], checks: dict[str, PictureCheck]) -> list[Finding]:
    """Groups of rows with the same id, or the same or nearly the same picture or text."""
    keys = [checks[meme.image].key if meme.image in checks else "" for meme in memes]
    by_picture, by_text = _group_by(memes, keys), _group_by(memes, [text_key(m.text) if m.text else "" for m in memes])
    leak = "across splits they leak from one to the other; of conflicting labels one is wrong"
    template = f"{leak}, unless the words differ and only the template is the same"
    same_words = "on the same picture the same holds; on different pictures both labels may be right"
    return [
        Finding("repeated_ids", "ids of several rows", "same id and text: all but the first row are skipped",
                groups=_sorted(Group(rows, _repeat(rows)) for rows in _group_by(memes, [m.id for m in memes]).values()
                               if len(rows) > 1)),
        Finding("same_pictures", "pictures that are the same file", leak,
                groups=_sorted(Group(rows) for rows in by_picture.values() if len(rows) > 1)),
        Finding("near_pictures", "pictures that are nearly the same", template, groups=_near_pictures(by_picture, checks)),
        Finding("same_texts", "texts that are the same", same_words,
                groups=_sorted(Group(rows) for rows in by_text.values() if len(rows) > 1)),
        Finding("near_texts", "texts that are nearly the same", same_words, groups=_near_texts(by_text)),
    ]  # fmt: skip


def class_balance(memes: Iterable[Meme]) -> dict[str, dict[str, int]]:
    """{split: {label: rows}}, with all labels for every split."""
    counts: dict[str, dict[str, int]] = {}
    for meme in memes:
        split = counts.setdefault(meme.split, dict.fromkeys(LABEL_NAMES.values(), 0))
        split[LABEL_NAMES[meme.label]] += 1
    return counts


def text_lengths(texts: Iterable[str], count: Callable[[str], int], context_length: int) -> dict[str, Any]:
    """Token counts of the distinct texts, start and end tokens included, and how many texts exceed the context."""
    tokens = [count(text) for text in texts]
    return {
        "texts": len(tokens),
        "context_length": context_length,
        "cut": sum(n > context_length for n in tokens),
        "median_tokens": median(tokens) if tokens else 0,
        "max_tokens": max(tokens, default=0),
    }


def _rows_with(found: Iterable[tuple[Meme, str]]) -> list[OddRow]:
    return [OddRow(meme.where, reason, meme.id, meme.image) for meme, reason in found]


def _group_by(memes: Sequence[Meme], keys: Sequence[str]) -> dict[str, list[Meme]]:
    """{key: rows}; rows with an empty key are left out."""
    found: defaultdict[str, list[Meme]] = defaultdict(list)
    for meme, key in zip(memes, keys, strict=True):
        if key:
            found[key].append(meme)
    return dict(found)


def _near_pictures(by_picture: dict[str, list[Meme]], checks: dict[str, PictureCheck]) -> list[Group]:
    hashes = {key: checks[rows[0].image].hash for key, rows in by_picture.items()}
    keys = [key for key, value in hashes.items() if value is not None]
    stacked = np.array([hashes[key] for key in keys], np.uint64).reshape(-1, 4)
    groups = []
    for cluster in near_pictures(stacked):
        bits = max(differing_bits(stacked[cluster[0]], stacked[n]) for n in cluster[1:])
        rows = [meme for n in cluster for meme in by_picture[keys[n]]]
        bags = [words(meme.text) for meme in rows]
        note = f"at most {bits} of the hash's 256 bits differ, {_shared(bags)}"
        groups.append(Group(rows, note))
    return _sorted(groups)


def _near_texts(by_text: dict[str, list[Meme]]) -> list[Group]:
    rows = list(by_text.values())
    groups = []
    for cluster in near_texts(words(same[0].text) for same in rows):
        bags = [words(rows[n][0].text) for n in cluster]
        groups.append(Group([m for n in cluster for m in rows[n]], _shared(bags)))
    return _sorted(groups)


def _shared(bags: list[frozenset[str]]) -> str:
    shared = min(shared_words(bags[0], bag) for bag in bags[1:])
    # rounded down, so that 100 % means identical words
    return "the same words" if shared == 1 else f"at least {int(100 * shared)} % of the words shared"


def _repeat(rows: list[Meme]) -> str:
    texts, pictures = len({meme.text for meme in rows}), len({meme.image for meme in rows})
    return f"{pictures} picture{'s' * (pictures > 1)}, {texts} text{'s' * (texts > 1)}"


def _sorted(groups: Iterable[Group]) -> list[Group]:
    """Most important first: conflicting labels, then groups across splits."""
    return sorted(groups, key=lambda group: (not group.conflict, len(group.splits) == 1))
