"""What was understood of a data set: tables, columns, labels and splits, as lines for the user."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from embed.data.columns import KNOWN, Columns
from embed.data.labels import LABEL_NAMES, UNLABELLED, LabelReader

_SHOWN = 12


@dataclass
class Understood:
    """Filled while the rows are read.

    layout: name of the layout; rows: {table: rows}; left_out: {table: reason}; splits: {(split, label): rows}.
    """

    layout: str = ""
    rows: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)
    labels: LabelReader = field(default_factory=LabelReader)
    splits: Counter[tuple[str, int]] = field(default_factory=Counter)
    without_text: int = 0
    disagreeing: int = 0
    notes: dict[str, None] = field(default_factory=dict)
    found_otherwise: Counter[str] = field(default_factory=Counter)

    def note(self, text: str) -> None:
        """Something that the user should know, told once."""
        self.notes.setdefault(text)

    def take(self, split: str, label: int, text: str, agreement: float) -> None:
        """Count a row."""
        self.splits[split, label] += 1
        self.without_text += not text
        self.disagreeing += agreement < 1

    @property
    def all_unlabelled(self) -> bool:
        """Whether there are rows, and none has a label."""
        return bool(self.splits) and all(label == UNLABELLED for _, label in self.splits)

    def no_label(self) -> str:
        """Why no row has a label: the columns that were looked at."""
        total = sum(self.splits.values())
        if "label" in self.columns.found:
            looked = f"the column {self.columns.found['label']} is empty"
        else:
            wanted = self.columns.given.get("label") or ", ".join(KNOWN["label"][:6]) + " or the like"
            looked = f"looked for a column called {wanted}"
        has = ", ".join([*self.columns.found.values(), *self.columns.unused]) or "none"
        return (
            f"none of the {total} rows has a label: {looked}; columns: {has}. LABEL=<column> names the label's column"
        )

    def lines(self, ocr: bool = False) -> Iterator[str]:
        """One line for each thing that was understood; ocr: whether missing texts are about to be read."""
        tables = _listed([f"{name} ({_rows(count)})" for name, count in self.rows.items()])
        yield f"layout      {self.layout}: {tables}"
        for name, reason in self.left_out.items():
            yield f"left out    {name}: {reason}"
        if self.columns.found:
            found = ", ".join(f"{ours} = {theirs}" for ours, theirs in self.columns.found.items())
            others = f" (not used: {_listed([*self.columns.unused])})" if self.columns.unused else ""
            yield f"columns     {found}{others}"
        words = [
            f"{word[:40]} = {LABEL_NAMES[label]}: {n}" for (word, label), n in self.labels.words.most_common() if word
        ]
        if words:
            yield f"labels      {_listed(words)}"
        yield f"splits      {', '.join(f'{split}: {counts}' for split, counts in self._splits())}"
        unlabelled = sum(n for (_, label), n in self.splits.items() if label == UNLABELLED)
        if unlabelled:
            yield f"unlabelled  {_rows(unlabelled)}: embedded, left out of tuning"
        if self.disagreeing:
            yield f"annotators  disagree on {_rows(self.disagreeing)}: the majority counts, a tie is unlabelled"
        if self.without_text:
            yield f"no text     {_rows(self.without_text)}" + (
                "" if ocr else "; add OCR=on to read it from the pictures"
            )
        for how, count in self.found_otherwise.items():
            yield f"pictures    {count} found {how}"
        for text in self.notes:
            yield f"note        {text}"

    def _splits(self) -> Iterator[tuple[str, str]]:
        for split in dict.fromkeys(split for split, _ in self.splits):
            yield split, " + ".join(f"{n} {LABEL_NAMES[label]}" for (s, label), n in self.splits.items() if s == split)


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count != 1)}"


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(items[:_SHOWN]) + more


def table_name(table: Path, data: Path) -> str:
    """A table's name as it is told: its path inside the data folder."""
    return str(table.relative_to(data)) if data in table.parents else table.name
