"""Read labels: the words of the published sets, yes and no, and several annotators in one cell."""

import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from embed.data.values import is_missing

UNLABELLED = -1
LABEL_NAMES = {1: "offensive", 0: "non-offensive", UNLABELLED: "unlabelled"}
_WORDS = (
    *("offensive", "offensiv", "hate", "hateful", "hatespeech", "abusive", "toxic", "harmful", "misogynous"),
    *("misogynistic", "sexist", "racist", "propaganda", "troll", "bullying"),
)
_POSITIVE = (
    *_WORDS,
    *("somewhatharmful", "veryharmful", "slight", "slightoffensive", "veryoffensive", "hatefuloffensive"),
    *("yes", "true", "y", "1"),
)
_NEGATIVE = (
    *(prefix + word for word in _WORDS for prefix in ("non", "not", "no")),
    *("harmless", "benign", "normal", "no", "false", "n", "0"),
)
_LABELS = dict.fromkeys(_POSITIVE, 1) | dict.fromkeys(_NEGATIVE, 0)
_UNLABELLED = ("unlabelled", "unlabeled")
# Between the labels of several annotators in one cell.
_SEPARATORS = re.compile(r"\s*[|;,/]\s*")
# Distinct words that are counted for the user.
_MOST_WORDS = 50


@dataclass
class LabelReader:
    """Turns cells into labels.

    positive: the words that count as offensive, every other one does not; () for the known words. words: {(word, label):
    rows} of what was read.
    """

    positive: Collection[str] = ()
    words: Counter[tuple[str, int]] = field(default_factory=Counter)
    _read: dict[str, tuple[str, int, float]] = field(default_factory=dict)

    def read(self, value: Any) -> tuple[int, float]:
        """Label (1, 0 or -1) of a cell, and the share of its annotators who agree; a tie is unlabelled.

        Raises ValueError for a word that is not known.
        """
        known = self._read.get(value) if isinstance(value, str) else None
        word, label, agreement = known or self._judge(value)
        if isinstance(value, str) and len(self._read) < _MOST_WORDS:
            self._read[value] = word, label, agreement
        if (word, label) in self.words or len(self.words) < _MOST_WORDS:
            self.words[word, label] += 1
        return label, agreement

    def _judge(self, value: Any) -> tuple[str, int, float]:
        """The word to tell the user, the label and the agreement of a cell."""
        votes = Counter(map(self._one, _votes(value)))
        labels = {label: count for label, count in votes.items() if label != UNLABELLED}
        if not labels:
            label, agreement = UNLABELLED, 1.0
        else:
            agreement = max(labels.values()) / sum(labels.values())
            label = UNLABELLED if len(set(labels.values())) == 1 < len(labels) else max(labels, key=labels.__getitem__)
        return "" if label == UNLABELLED and len(votes) == 1 else str(value), label, agreement

    def known(self, value: str) -> bool:
        """Whether a word is a label."""
        spelling = _spelling(value)
        return spelling in map(_spelling, self.positive) or spelling in _LABELS or spelling in _UNLABELLED

    def _one(self, value: Any) -> int:
        if is_missing(value):
            return UNLABELLED
        if not isinstance(value, str | int | float):
            raise ValueError(f"the label must be a word or a number, got {value!r:.60}")  # noqa: TRY004
        spelling = _spelling(str(value))
        if spelling in _UNLABELLED:
            return UNLABELLED
        if self.positive:
            return int(spelling in map(_spelling, self.positive))
        if spelling not in _LABELS:
            raise ValueError(
                f"unknown label {value!r:.60}; write offensive or non-offensive (or 1 or 0), "
                "or say which words count as offensive: POSITIVE='word,word'"
            )
        return _LABELS[spelling]


def parse_label(value: Any) -> int:
    """1, 0 or -1 for a label in any known spelling. Raises ValueError for anything else."""
    return LabelReader().read(value)[0]


def _votes(value: Any) -> list[Any]:
    """The labels in one cell, one per annotator."""
    if isinstance(value, list):
        return value or [None]
    if isinstance(value, str) and not is_missing(value) and _SEPARATORS.search(value):
        parts = _SEPARATORS.split(value.strip().strip("[]()"))
        return [part.strip("'\" ") for part in parts]
    return [value]


def _spelling(word: str) -> str:
    written = word.strip().lower()
    if written.endswith(".0") and written[:-2].isdigit():
        written = written[:-2]
    # Hyphens and the like are dropped from words only: "-1" is not a spelling of 1.
    return written if any(sign.isdigit() for sign in written) else re.sub(r"[\W_]", "", written)
