"""`python -m api predict-folder SOURCE [--out FILE.csv]`: a folder or a table of memes, a row of predictions for each.

A folder is walked with its subfolders, in the order of the names; hidden files and linked folders are left out. A table
(.csv, .jsonl) names its pictures as for `make embed`, needs no labels and no texts; of a folder in MultiOFF's layout the
tables are read. Values are written as they are, also texts that begin with `=`: the file is for programs, so import it
into a spreadsheet as text. Knows nothing of HTTP.
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
from api.schema import MAX_TEXT_CHARS, Prediction
from api.settings import ServeSettings
from cache import cores, write_text_atomically
from embed.base.errors import RowError
from embed.base.text import clean_text
from embed.base.threads import run_ahead
from embed.data.tables import find_tables, read_table
from embed.pictures.decoding import UnreadableImage
from embed.pictures.hashing import UnusableFile, read_picture
from embed.pictures.locate import PictureFinder

COLUMNS = ("image_name", "text", "text_source", "label", "probability", "threshold", "model_version", "problem")
# Lines end as in RFC 4180; Python's csv then quotes both of the line's ends within a value.
_HEADER = ",".join(COLUMNS) + "\r\n"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".webp", ".bmp", ".tif", ".tiff")
# MultiOFF's tables; the pictures' folder stands beside it.
_TABLES = "Split Dataset"
# A batch in work and one that waits, for every lane; decoded, a meme is some hundred kilobytes.
_BATCHES_PER_LANE = 2


@dataclass(frozen=True)
class _Item:
    """A meme to judge. name: as in the answer's row; image: its file; text: cleaned, "" for none; problem: "" or why
    it cannot be judged."""

    name: str
    image: Path
    text: str = ""
    problem: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from other memes of the source."""
        return self.name, self.text


def predict_folder(source: Path, out: Path | None, settings: ServeSettings, say: Callable[[str], None]) -> int:
    """Judge every meme of `source`, write a CSV row for each; the exit code: 2 when none could be judged, else 0.

    out: None for standard output. A file that has rows of the same model already is gone on with: each row is handed to
    the disk before the next meme is waited for, a half-written last one is made again, a meme that has its row is not
    judged again, even if its file has changed, and one with a problem is tried again. Raises what `load_model` raises,
    ValueError for a source without memes or another file under `out`'s name; OSError.
    """
    items = _items(source, say)
    with closing(load_model(settings, Metrics(), make_reader(settings)).predictor) as predictor:
        version = predictor.model.version
        with _standard_output() if out is None else _opened(out, version) as (file, done):
            left, problems = _left(items, done), 0
            rows = _judged(predictor, left, _BATCHES_PER_LANE * settings.batch * cores())
            # rows on the screen are progress enough, and a bar would run into them
            hidden = file.isatty()
            writer = csv.writer(file)
            with tqdm(
                rows, "judging", len(items), initial=len(items) - len(left), unit=" memes", disable=hidden
            ) as bar:
                for row in bar:
                    writer.writerow(row)
                    file.flush()
                    problems += bool(row[-1])
    if problems:
        say(f"{problems} of {len(items)} memes could not be judged; the column `problem` says why")
    return 2 if problems == len(items) else 0


def _judged(predictor: Predictor, items: Sequence[_Item], depth: int) -> Iterator[tuple[object, ...]]:
    """The row of each meme, in order; so many are under way that the model's batches are full."""
    version = predictor.model.version
    for item, begun in zip(items, run_ahead(partial(_begin, predictor), items, depth), strict=True):
        try:
            answer = begun if isinstance(begun, str) else begun()
        except ModelFailure as error:
            answer = str(error)
        if isinstance(answer, str):
            yield item.name, item.text, "", "", "", "", version, answer
        else:
            said, probability = answer.text, answer.probability
            yield item.name, said.value, said.source, answer.label, probability, answer.threshold, version, ""


def _begin(predictor: Predictor, item: _Item) -> Callable[[], Prediction] | str:
    """Queue a meme for the model, or say what is wrong with it."""
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
        items = _listed(root, [source])
    elif (source / _TABLES).is_dir():
        items = _listed(source, find_tables(source))
    else:
        items = _found(source, say)
    if not items:
        raise ValueError(
            f"{source}: no pictures there; names end in {', '.join(_SUFFIXES)}, a table has a row for each"
        )
    return items


def _listed(root: Path, tables: Iterable[Path]) -> list[_Item]:
    finder = PictureFinder(root)
    rows = (row for table in tables for row in read_table(table, required=("image",)))
    return [_item_of(row, root, finder) for row in rows]


def _item_of(row: tuple[str, dict[str, object]] | RowError, root: Path, finder: PictureFinder) -> _Item:
    if isinstance(row, RowError):
        return _Item("", root, problem=f"{row.where}: {row.reason}")
    where, fields = row
    name, text = (clean_text(str(fields.get(column) or "")) for column in ("image", "text"))
    if not name:
        return _Item("", root, text[:MAX_TEXT_CHARS], f"{where}: no image name")
    image, problem = finder.find(name)
    if len(text) > MAX_TEXT_CHARS:
        problem = problem or f"its text has {len(text):,} characters, the limit is {MAX_TEXT_CHARS:,}"
    return _Item(name, root / image, text[:MAX_TEXT_CHARS], problem)


def _found(root: Path, say: Callable[[str], None]) -> list[_Item]:
    """The pictures of a folder and its subfolders."""
    names, others = [], 0
    for folder, subfolders, files in os.walk(root, onerror=_raise):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        linked = sum(os.path.islink(os.path.join(folder, name)) for name in subfolders)  # os.walk does not enter them
        seen = [name for name in files if not name.startswith(".")]
        pictures = [name for name in seen if name.lower().endswith(_SUFFIXES)]
        names += [Path(folder, name).relative_to(root).as_posix() for name in pictures]
        others += linked + len(seen) - len(pictures)
    if others:
        say(f"left out: {others} files and linked folders; taken are files that end in {', '.join(_SUFFIXES)}")
    finder = PictureFinder(root, folders=("",))
    return [_Item(_written(name), root / name, problem=finder.find(name)[1]) for name in sorted(names)]


def _written(name: str) -> str:
    """A file's name as UTF-8, whatever bytes it is made of."""
    return os.fsencode(name).decode("utf-8", "replace")


def _raise(error: OSError) -> None:
    raise error


def _left(items: Sequence[_Item], done: Sequence[dict[str, str]]) -> list[_Item]:
    """The memes that have no row yet."""
    # a text that was read off the picture is not the meme's own
    there = Counter((row["image_name"], "" if row["text_source"] == "ocr" else row["text"]) for row in done)
    left = []
    for item in items:
        if there[item.key]:
            there[item.key] -= 1
        else:
            left.append(item)
    return left


@contextmanager
def _standard_output() -> Iterator[tuple[TextIO, list[dict[str, str]]]]:
    sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    sys.stdout.write(_HEADER)
    yield sys.stdout, []


@contextmanager
def _opened(out: Path, version: str) -> Iterator[tuple[TextIO, list[dict[str, str]]]]:
    """The file, ready to be added to, and the judged memes' rows, which are all that it has. Raises ValueError for one
    that is not to be added to."""
    data = out.read_bytes() if out.exists() else b""
    rows = [] if _HEADER.encode().startswith(data) else _rows_of(data[: _whole(data)], version, out)
    judged = [row for row in rows if not row["problem"]]
    kept = _HEADER + _lines(judged)
    if kept.encode() != data:
        write_text_atomically(out, kept)
    with out.open("a", encoding="utf-8", newline="") as file:
        yield file, judged


def _lines(rows: Iterable[dict[str, str]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, COLUMNS).writerows(rows)
    return text.getvalue()


def _whole(data: bytes) -> int:
    """How many bytes the whole rows take. A line that ends within quotes is not a row's end."""
    end = at = quotes = 0
    for line in data.splitlines(keepends=True):
        at += len(line)
        quotes += line.count(b'"')
        if quotes % 2 == 0 and line.endswith(b"\r\n"):
            end = at
    return end


def _rows_of(data: bytes, version: str, out: Path) -> list[dict[str, str]]:
    try:
        text = data.decode("utf-8")
        rows = list(csv.DictReader(io.StringIO(text, newline="")))
        ours = text.startswith(_HEADER) and all(None not in (*row, *row.values()) for row in rows)
    except (UnicodeDecodeError, csv.Error):
        ours = False
    if not ours:
        raise ValueError(f"--out {out}: a file that predict-folder did not write; give another name")
    others = {row["model_version"] for row in rows} - {version}
    if others:
        raise ValueError(
            f"--out {out}: its rows are of model {min(others)}, and this is {version}; give another name, or delete it"
        )
    return rows
