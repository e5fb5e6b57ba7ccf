"""What the index that is there decides about a run: precision, picture hashes, texts read by OCR, parts.

An index's name leaves out IMAGES, PRECISION, OCR and the delta: a run with others replaces it, which is said.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cache import DatasetIndex, KeyColumn, TextColumn, UnusableIndex, differences, read_index
from cache.store.spec import Spec
from embed.clip.options import EncoderOptions, precision_of
from embed.ocr.readings import Readings
from embed.ocr.recognisers import OcrUnavailable, find_recogniser
from embed.pictures.hints import NO_HINTS, Hints
from embed.plan.settings import EmbedSettings

# Fields of a spec that are shown when it has changed.
_SHOWN = 3


def earlier_index(path: Path) -> DatasetIndex | None:
    """The index of the previous run, None if there is none that can be read."""
    try:
        return read_index(path)
    except UnusableIndex:
        return None


def preferring(options: EncoderOptions, earlier: DatasetIndex | None) -> EncoderOptions:
    """The options, with the index's precision preferred where none is asked for."""
    if earlier is None or options.precision != "auto":
        return options
    return replace(options, prefer=precision_of(earlier.spec))


def hints(index: DatasetIndex | None) -> Hints:
    """The stamps and keys of the index's pictures."""
    if index is None:
        return NO_HINTS
    return Hints(TextColumn.of(index.images), TextColumn.of(index.image_stamps), KeyColumn.of(index.image_keys))


def hints_of_folder(earlier: DatasetIndex | None, images: str) -> Hints:
    """The hints of the previous run, if its picture folder is `images`."""
    return hints(earlier if earlier is not None and earlier.source.get("images", "") == images else None)


def find_readings(settings: EmbedSettings, earlier: DatasetIndex | None) -> Readings | None:
    """What OCR has read before: by the engine that is asked for, or by that of the index; None without OCR.

    Raises OcrUnavailable.
    """
    if settings.ocr:
        return Readings(settings.layout.readings, find_recogniser(settings.ocr_lang, settings.layout.ocr_models))
    if settings.ocr_lang:
        raise OcrUnavailable(f"OCR_LANG={settings.ocr_lang} says what OCR reads; add OCR=on (--ocr)")
    engine = earlier.source.get("ocr", "") if earlier is not None and settings.ocr is None else ""
    return Readings(settings.layout.readings, engine=engine) if engine else None


def ocr_source(settings: EmbedSettings, earlier: DatasetIndex | None, engine: str) -> dict[str, str]:
    """The entries of the new index's source about OCR; engine: its name, "" without OCR."""
    kept = engine and not settings.ocr
    return {"ocr": engine, "ocr_lang": earlier.source.get("ocr_lang", "") if kept and earlier else settings.ocr_lang}


def replaced(earlier: DatasetIndex, source: dict[str, str]) -> Iterator[str]:
    """`IMAGES=other folder` and so on: what the earlier index was made with, and the new one, of this source, is not."""
    for name in ("images", "ocr"):
        if (before := earlier.source.get(name, "")) != source.get(name, ""):
            yield f"{name.upper()}={'on' if before and name == 'ocr' else before}" if before else f"no {name.upper()}"


def changed_fields(earlier: DatasetIndex, spec: Spec) -> str:
    """What differs between the earlier index's encoder and this one, "" if nothing does."""
    found = differences(earlier.spec, spec)
    more = f" and {len(found) - _SHOWN} more fields" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more
