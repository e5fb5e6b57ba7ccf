"""The embedding job: compute the vectors missing from the cache and write the dataset index.

    plan     read the tables, hash the pictures, look up the keys; no model is loaded
    read     with `ocr`, recognise the text of pictures without one; earlier results are reused
    fill     decode in threads, encode in batches, one immutable segment every few seconds
    index    one row per row of the data set, with the keys of its vectors

A kill at any moment loses the segment in progress; the next run recomputes it.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cache import DatasetIndex, KeyColumn, KeyTable, TextColumn, VectorStore, merge_small, write_index
from embed.base.errors import DatasetError
from embed.data.choices import recall, remember
from embed.data.dataset import read_dataset
from embed.data.memes import Memes
from embed.data.parts import assign_parts
from embed.data.understood import Understood
from embed.engines.adoption import adopt_vectors
from embed.engines.local import Engine, LocalEngine
from embed.ocr.readings import Reading, fill_texts
from embed.pictures.hash_log import HashLog
from embed.pictures.hints import NO_HINTS, joined
from embed.pictures.keys import Hashed, hash_pictures
from embed.plan import rows
from embed.plan.earlier import earlier_index, find_readings, hints, hints_of_folder, ocr_source, preferring, replaced
from embed.plan.opening import may_adopt, open_store, report_change, report_damage
from embed.plan.settings import EmbedSettings
from embed.plan.wanted import Items, Wanted, text_keys

if TYPE_CHECKING:
    from embed.engines.writing import Filled  # imports torch


class EngineUnavailable(ValueError):
    """The engine's packages are not installed."""


class NothingReadable(ValueError):
    """None of the data set's memes can be used."""


@dataclass
class Embedded:
    """Counts and times of a run; distinct, cached, embedded: {"image" | "text": number of keys}.

    prompts: the same three counts, of zero-shot prompts that equal no meme's text; device: of the encoder, "" if none
    was loaded; seconds: of embedding, without loading the model; spent: {"decode" | "tokenise" | "model": seconds}, on
    a CPU summed over all cores.
    """

    distinct: dict[str, int] = field(default_factory=dict)
    cached: dict[str, int] = field(default_factory=dict)
    embedded: dict[str, int] = field(default_factory=dict)
    prompts: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    device: str = ""
    seconds: float = 0.0
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))


@dataclass(frozen=True)
class Summary:
    """Results of a run.

    too_long: distinct texts longer than the context; skipped: (id, file and row, reason); reading: OCR counts, if
    requested.
    """

    memes: Memes
    store: VectorStore
    work: Embedded
    too_long: int
    skipped: list[tuple[str, str, str]]
    reading: Reading | None = None


def embed_dataset(
    settings: EmbedSettings,
    say: Callable[[str], None] = print,
    known: DatasetIndex | None = None,
    splits: Sequence[str] | None = None,
) -> Summary:
    """Bring the cache and the index up to date with the data folder; `say` prints messages to the user.

    known: another index, whose hashes of unchanged pictures are used; splits: one per row, replacing those of the data.
    Raises DatasetError, EncoderUnavailable, EngineUnavailable, NothingReadable, OcrUnavailable, SpecMismatch,
    StoreUnreached, TooLittleMemory and, when the disk is full, OSError; finished work is kept.
    """
    choices = recall(settings.layout.choices(settings.data), settings.data, settings, say)
    settings = replace(settings, **asdict(choices))
    earlier = earlier_index(settings.index)
    settings = replace(settings, options=preferring(settings.options, earlier))
    with closing(_open_engine(settings, say)) as engine:
        return _Run(settings, engine, say, earlier).embed(known, splits)


def _open_engine(settings: EmbedSettings, say: Callable[[str], None]) -> Engine:
    if settings.engine == "local":
        return LocalEngine(settings.encoder, settings.device, say)
    try:
        from embed.engines.ray_engine import RayEngine  # Ray is an extra
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise EngineUnavailable("engine ray needs Ray: .venv/bin/pip install -r requirements-ray.txt") from error
    return RayEngine(settings.encoder, settings.device, say)


@dataclass(frozen=True)
class _Run:
    """One run. earlier: the index that it replaces."""

    settings: EmbedSettings
    engine: Engine
    say: Callable[[str], None]
    earlier: DatasetIndex | None

    def embed(self, known: DatasetIndex | None, splits: Sequence[str] | None) -> Summary:
        """`embed_dataset`."""
        settings = self.settings
        readings = find_readings(settings, self.earlier)
        source = rows.source_of(settings) | ocr_source(settings, self.earlier, readings.engine if readings else "")
        root, memes = self._read(source)
        log = HashLog(settings.index, settings.choices.images)
        hashed = self._hash(root, memes, known, log)
        reading = None
        if readings is not None:
            memes, reading = fill_texts(root, memes, hashed.keys, readings, settings.retry_failed)
        memes = _split_as(splits, memes, settings.data)
        keys = text_keys(memes.texts, self.earlier)
        wanted = Wanted.of(Items.of(hashed.keys, memes.images), Items.of(keys, memes.texts), settings.retry_failed)
        store, work, transient_failures = self._fill(root, wanted)
        failures = {"image": store.failures("image") | transient_failures, "text": store.failures("text")}
        reasons = rows.reasons(memes, hashed, keys, failures)
        skipped = [(memes.ids[row], memes.where[row], reasons[row]) for row in np.flatnonzero(reasons.lengths).tolist()]
        if len(skipped) == len(memes):
            raise NothingReadable(_none_usable(settings.data, skipped))
        index = rows.index_of(memes, keys, hashed, reasons, store, source)
        index = replace(index, parts=self._parts(index, memes, root))
        write_index(settings.index, index)
        log.forget()
        return Summary(memes, store, work, _too_long(index, store), skipped, reading)

    def _hash(self, root: Path, memes: Memes, known: DatasetIndex | None, log: HashLog) -> Hashed:
        """The keys of the pictures, none where the meme has a problem."""
        images = memes.images
        if memes.problems.lengths.any():
            images = TextColumn.of("" if problem else image for image, problem in zip(images, memes.problems))
        earlier = hints_of_folder(self.earlier, self.settings.choices.images)
        trusted = NO_HINTS if self.settings.rehash else joined(hints(known), earlier, log.read())
        return hash_pictures(root, images, trusted, self.engine.map, log.add)

    def _read(self, source: dict[str, str]) -> tuple[Path, Memes]:
        """The pictures' root and the memes, after saying what was understood and what index is replaced."""
        settings, understood = self.settings, Understood()
        root, memes = read_dataset(Path(settings.data), settings.choices, understood)
        for line in understood.lines(bool(source["ocr"])):
            self.say(line)
        if self.earlier is not None and (other := list(replaced(self.earlier, source))):
            self.say(f"replaced    {settings.index}, made with {' and '.join(other)}")
        remember(settings.layout.choices(settings.data), settings.choices)
        return root.absolute(), memes  # a worker may run in another folder

    def _fill(self, root: Path, wanted: Wanted) -> tuple[VectorStore, Embedded, dict[str, str]]:
        """The store with all vectors, counts, and {key: reason} of the transient failures."""
        store, lacking = open_store(self.settings, self.engine, wanted)
        busy = lacking or store.damaged
        waiting = partial(self.say, "another job is filling this cache; waiting for it")
        with store.locked(waiting) if busy else nullcontext():
            report_damage(store, self.say)
            if may_adopt(store):
                adopt_vectors(store, wanted.missing(store), root, self.say)
            if change := report_change(self.settings, self.earlier, store, wanted):
                self.say(change)
            filled = _fill(store, self.engine, root, wanted)
            if busy:
                merge_small(store, self.say)
            return store, *filled

    def _parts(self, index: DatasetIndex, memes: Memes, root: Path) -> Sequence[int]:
        """The part of each meme, -1 where the data have a validation split."""
        if self.earlier is not None and rows.same_rows(self.earlier, index):
            return self.earlier.parts  # bundles older than parts depend on the split that was carved without them
        if "validation" in index.splits:
            return [-1] * len(index)
        keys = {image: key for image, key in zip(index.images, index.image_keys) if key}
        return assign_parts(list(memes), keys, root, self.settings.layout.splits(self.settings.data))


def _split_as(splits: Sequence[str] | None, memes: Memes, data: str) -> Memes:
    if splits is None:
        return memes
    if len(splits) != len(memes):
        raise DatasetError(f"{data}: {len(memes)} memes, expected {len(splits)}; run `make embed` again")
    return replace(memes, splits=TextColumn.of(splits))


def _too_long(index: DatasetIndex, store: VectorStore) -> int:
    """Distinct texts longer than the context."""
    long = np.asarray(index.text_tokens) > store.spec["tokenizer"]["context_length"]
    return len(KeyTable(KeyColumn.of(index.text_keys).take(long)))


def _fill(store: VectorStore, engine: Engine, root: Path, wanted: Wanted) -> tuple[Embedded, dict[str, str]]:
    """Embed what is missing from the locked store; also {key: reason} of the transient failures."""
    work, transient_failures = Embedded(), dict[str, str]()
    for kind, items in wanted.kinds.items():
        cached, lacking = store.has(kind, items.keys), wanted.lacking(store, kind)
        if lacking.any():
            filled, seconds = _embed(store, kind, items.as_dict(lacking), engine, root)
            transient_failures |= filled.transient_failures
            work.seconds += seconds
            work.spent["decode" if kind == "image" else "tokenise"] += filled.preparing
            work.spent["model"] += filled.encoding
        embedded = lacking & store.has(kind, items.keys)
        own = wanted.own[kind]
        for name, which in (("distinct", np.ones(len(items), bool)), ("cached", cached), ("embedded", embedded)):
            getattr(work, name)[kind] = int((which & own).sum())
            work.prompts[name] += int((which & ~own).sum())
    work.device = engine.device
    return work, transient_failures


def _embed(store: VectorStore, kind: str, todo: dict[str, str], engine: Engine, root: Path) -> "tuple[Filled, float]":
    """Embed {key: image or text}; counts and seconds."""
    if kind == "text":
        # sorted by length: a batch is padded to its longest text
        todo = dict(sorted(todo.items(), key=lambda item: len(item[1]), reverse=True))
    engine.load()  # before the clock starts
    started = time.monotonic()
    return engine.fill(store, kind, todo, root), time.monotonic() - started


def _none_usable(data: str, skipped: list[tuple[str, str, str]]) -> str:
    # a reason that all of them share is reported once
    shown = skipped[: 3 if len({reason for _, _, reason in skipped}) > 1 else 1]
    first = "; ".join(f"{name} ({where}): {reason}" for name, where, reason in shown)
    same = "; the same for all others" if len(skipped) > len(shown) == 1 else ""
    return f"{data}: none of its {len(skipped)} memes can be used. {first}{same}"
