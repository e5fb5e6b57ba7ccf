"""`python -m api predict-folder SOURCE`: a CSV row with the prediction for each meme.

A folder is read with its subfolders, sorted by name, without hidden files and linked folders. A table (.csv, .jsonl)
names its pictures as for `make embed` and needs no labels and texts; in a folder with MultiOFF's layout the tables are
read. Values are not escaped for spreadsheets, also texts that begin with `=`: import the file as text.
"""

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from api.metrics import Metrics
from api.model.batching import ModelFailure
from api.model.loading import load_model, make_reader
from api.model.prediction import Meme, Predictor
from api.schema import Prediction
from api.settings import ServeSettings
from cache import cores, naming, path_notice, write_text_atomically
from embed.base.errors import RowError
from embed.base.text import MAX_TEXT, clean_text
from embed.base.threads import run_ahead
from embed.data.tables import find_tables, read_table
from embed.pictures.decoding import UnreadableImage
from embed.pictures.hashing import UnusableFile, read_picture
from embed.pictures.locate import SUFFIXES, PictureFinder

COLUMNS = ("image_name", "text", "text_source", "label", "probability", "threshold", "model_version", "problem")
# Line ends as in RFC 4180; Python's csv then quotes values with \r or \n.
_HEADER = ",".join(COLUMNS) + "\r\n"
# Folder of MultiOFF's tables, beside that of the pictures.
_TABLES = "Split Dataset"
# One that runs and one that waits; a decoded meme has some hundred kilobytes.
_BATCHES_PER_WORKER = 2


@dataclass(frozen=True)
class _Item:
    """A meme to classify. name: of its row; image: path; text: cleaned, "" for none; problem: "", or why it cannot be
    classified."""

    name: str
    image: Path
    text: str = ""
    problem: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Identifies the meme within the source."""
        return self.name, self.text


def predict_folder(source: Path, out: Path | None, settings: ServeSettings, say: Callable[[str], None]) -> int:
    """Classify each meme of `source` and write a CSV row for it. Returns the exit code: 2 if none could be classified.

    out: None for standard output. An existing file with rows of the same model is continued: memes with a row are not
    classified again, even if the picture has changed; rows with a problem and an incomplete last row are replaced. Each
    row is flushed. Raises what `load_model` raises, OSError, and ValueError for a source without memes or an `out` that
    this command did not write.
    """
    items = _items(source, say)
    reader = make_reader(settings)
    with closing(load_model(settings, Metrics(), reader).predictor) as predictor:
        if notice := path_notice(predictor.classifier.config["spec"], source):
            say(notice)
        version = predictor.model.version
        with _standard_output() if out is None else _opened(out, version) as (file, done):
            remaining, problems = _remaining(items, done), 0
            rows = _predictions(predictor, remaining, _BATCHES_PER_WORKER * settings.batch * cores())
            # on a terminal the rows show the progress
            hidden = file.isatty()
            writer = csv.writer(file)
            with tqdm(
                rows, "classifying", len(items), initial=len(items) - len(remaining), unit=" memes", disable=hidden
            ) as bar:
                for row in bar:
                    writer.writerow(row)
                    file.flush()
                    problems += bool(row[-1])
                    bar.set_postfix_str(reader.progress() if reader else "", refresh=False)
    if reader and reader.progress():
        say(f"words of pictures without a text: {reader.progress()}, by {reader.engine}")
    if problems:
        say(f"{problems} of {len(items)} memes could not be classified; see the column `problem`")
    return 2 if problems == len(items) else 0


def _predictions(predictor: Predictor, items: Sequence[_Item], depth: int) -> Iterator[tuple[object, ...]]:
    """The row of each meme, in order. depth: memes in progress, enough to fill the batches."""
    version = predictor.model.version
    for item, pending in zip(items, run_ahead(partial(_begin, predictor), items, depth), strict=True):
        try:
            answer = pending if isinstance(pending, str) else pending()
        except ModelFailure as error:
            answer = str(error)
        if isinstance(answer, str):
            yield item.name, item.text, "", "", "", "", version, answer
        else:
            text, probability = answer.text, answer.probability
            yield item.name, text.value, text.source, answer.label, probability, answer.threshold, version, ""


def _begin(predictor: Predictor, item: _Item) -> Callable[[], Prediction] | str:
    """Queue a meme for the model; returns what waits for its prediction, or the problem."""
    if item.problem:
        return item.problem
    try:
        return predictor.begin(Meme(read_picture(item.image), item.text), "")
    except (UnusableFile, UnreadableImage) as error:
        return str(error)


def _items(source: Path, say: Callable[[str], None]) -> list[_Item]:
    is_table = source.is_file() and source.suffix.lower() in (".csv", ".jsonl")
    if not is_table and not source.is_dir():
        raise ValueError(f"{source}: expected a folder of pictures, or a table of them that ends in .csv or .jsonl")
    if is_table:
        root = source.parent.parent if source.parent.name == _TABLES else source.parent
        items = _from_tables(root, [source])
    elif (source / _TABLES).is_dir():
        items = _from_tables(source, find_tables(source))
    else:
        items = _from_folder(source, say)
    if not items:
        raise ValueError(
            f"{source}: no pictures; expected files that end in {', '.join(SUFFIXES)}, or a table with a row for each"
        )
    return items


def _from_tables(root: Path, tables: Iterable[Path]) -> list[_Item]:
    finder = PictureFinder(root)
    rows = (row for table in tables for row in read_table(table))
    return [_item_of(row, root, finder) for row in rows]


def _item_of(row: tuple[str, dict[str, object]] | RowError, root: Path, finder: PictureFinder) -> _Item:
    if isinstance(row, RowError):
        return _Item("", root, problem=f"{row.where}: {row.reason}")
    where, fields = row
    name, text = (clean_text(str(fields.get(column) or "")) for column in ("image", "text"))
    if not name:
        return _Item("", root, text[:MAX_TEXT], f"{where}: no image name")
    image, problem = finder.find(name)
    if len(text) > MAX_TEXT:
        problem = problem or f"its text has {len(text):,} characters, the limit is {MAX_TEXT:,}"
    return _Item(name, root / image, text[:MAX_TEXT], problem)


def _from_folder(root: Path, say: Callable[[str], None]) -> list[_Item]:
    """The pictures of a folder and its subfolders."""
    names, others = [], 0
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        linked = sum(os.path.islink(os.path.join(folder, name)) for name in subfolders)  # os.walk does not enter them
        seen = [name for name in files if not name.startswith(".")]
        pictures = [name for name in seen if name.lower().endswith(SUFFIXES)]
        names += [Path(folder, name).relative_to(root).as_posix() for name in pictures]
        others += linked + len(seen) - len(pictures)
    if others:
        say(f"skipped {others} files and linked folders; pictures are files that end in {', '.join(SUFFIXES)}")
    finder = PictureFinder(root, folders=("",))
    return [_Item(_as_utf8(name), root / name, problem=finder.find(name)[1]) for name in sorted(names)]


def _as_utf8(name: str) -> str:
    """A file name as UTF-8; bytes that are not are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def _raise(error: OSError) -> None:
    raise error


def _remaining(items: Sequence[_Item], done: Sequence[dict[str, str]]) -> list[_Item]:
    """The memes without a row in `done`."""
    # an OCR text is not part of the meme's key
    counts = Counter((row["image_name"], "" if row["text_source"] == "ocr" else row["text"]) for row in done)
    remaining = []
    for item in items:
        if counts[item.key]:
            counts[item.key] -= 1
        else:
            remaining.append(item)
    return remaining


@contextmanager
def _standard_output() -> Iterator[tuple[TextIO, list[dict[str, str]]]]:
    sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    sys.stdout.write(_HEADER)
    yield sys.stdout, []


@contextmanager
def _opened(out: Path, version: str) -> Iterator[tuple[TextIO, list[dict[str, str]]]]:
    """Open the file for appending, and return its rows without a problem; the others are removed.

    Raises ValueError for a file of another program or model.
    """
    data = out.read_bytes() if out.exists() else b""
    rows = [] if _HEADER.encode().startswith(data) else _rows_of(data[: _complete(data)], version, out)
    done = [row for row in rows if not row["problem"]]
    kept = _HEADER + _lines(done)
    if kept.encode() != data:
        write_text_atomically(out, kept)
    with naming(out), out.open("a", encoding="utf-8", newline="") as file:
        yield file, done


def _lines(rows: Iterable[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS).writerows(rows)
    return text.getvalue()


def _complete(data: bytes) -> int:
    """Bytes of the complete rows. A line end within quotes does not end a row."""
    end = at = quotes = 0
    for line in data.splitlines(keepends=True):
        at += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith(b"\r\n"):
            end = at
    return end


def _rows_of(data: bytes, version: str, out: Path) -> list[dict[str, str]]:
    csv.field_size_limit(max(MAX_TEXT, csv.field_size_limit()))
    try:
        text = data.decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        ours = text.startswith(_HEADER) and all(None not in (*row, *row.values()) for row in rows)
    except (UnicodeDecodeError, csv.Error):
        ours = False
    if not ours:
        raise ValueError(f"--out {out}: not a file of predict-folder; give another name")
    others = {row["model_version"] for row in rows} - {version}
    if others:
        raise ValueError(
            f"--out {out}: its rows are of model {min(others)}, the bundle is {version}; give another name, or delete it"
        )
    return rows
