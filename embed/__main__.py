"""Command line of the embedding job, the data audit and the check of published data sets.

    python -m embed --data FOLDER --model NAME --pretrained TAG_OR_FILE    fill the cache, write the dataset index
    python -m embed audit FOLDER                                           list problems in the data
    python -m embed data [FOLDER]                                          describe or check published data sets

Messages and progress go to stderr, the summary to stdout. Exit 0: done; 2: bad input, reported in one sentence;
130: interrupted, finished work is kept.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from cache import (
    DEMO_DATA,
    FEATURES,
    LONG_TEXTS,
    content_of,
    demo_notice,
    is_demo_encoder,
    read_index,
    refuse,
    required_model,
    spec_id,
)
from embed.clip.options import DEVICES, PRECISIONS, EncoderOptions
from embed.data.choices import add_choices
from embed.data.tables import check_exists
from embed.engines.local import ENGINES
from embed.job import Summary, embed_dataset
from embed.ocr.readings import Reading
from embed.plan.settings import EmbedSettings
from embed.published.command import main as data

# Skipped memes listed on the screen: with the wrong picture folder there are thousands.
_SKIPPED_LINES = 20


@exit_codes("interrupted; finished work is kept, run the same command to continue")
def main(arguments: list[str] | None = None) -> int:
    """Run the job; return the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["audit"]:
        # imported here: scipy and Jinja2 would slow down a run with nothing to do
        from embed.audit.command import main as audit

        return audit(words[1:])
    if words[:1] == ["data"]:
        return data(words[1:])
    given = vars(_parser().parse_args(words))
    as_json = given.pop("json")
    options = EncoderOptions(**{name: given.pop(name) for name in ("features", "precision", "long_text")})
    settings = EmbedSettings(**given, options=options)
    check_exists(Path(settings.data))
    settings = replace(settings, model=required_model(settings.data, settings.model))
    announce("embed", data=settings.data, model=settings.encoder, artifacts=settings.artifacts)
    try:
        summary = embed_dataset(settings, say=lambda note: print(note, file=sys.stderr))
    except OSError as error:
        return refuse(error, lambda text: f"{text}; results go to {settings.artifacts}/, finished work there is kept")
    print(json.dumps(_as_json(settings, summary)) if as_json else _report(settings, summary))
    return 0


def _parser() -> Parser:
    parser = Parser(prog="python -m embed", description="Embed a folder of memes with CLIP, once.")
    parser.add_argument("--data", default=DEMO_DATA, help="folder of memes, or one table (default: %(default)s)")
    add_choices(parser)
    parser.add_argument("--model", default="", help="open_clip model; demo: the demo's, the default for its data only")
    parser.add_argument("--pretrained", default="", help="open_clip tag of the weights, or a local checkpoint file")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where results go")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument(
        "--features",
        choices=FEATURES,
        default="projected",
        help="pooled: before the projection; both: one after the other",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: the fastest on this hardware")
    parser.add_argument("--long-text", choices=LONG_TEXTS, default="truncate", help="chunk: the mean of its chunks")
    parser.add_argument("--retry-failed", action="store_true", help="retry pictures that failed in an earlier run")
    parser.add_argument(
        "--rehash", action="store_true", help="read all pictures, also those with unchanged size and times"
    )
    parser.add_argument(
        "--ocr",
        action=argparse.BooleanOptionalAction,
        help="fill empty texts by OCR with RapidOCR; slow, done once (default: keep what an earlier run read)",
    )
    parser.add_argument(
        "--ocr-lang", default="", help="what --ocr reads: a language of its wheel's model or an added one"
    )
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="ray: on the Ray cluster of RAY_ADDRESS")
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    return parser


def _report(settings: EmbedSettings, summary: Summary) -> str:
    splits = Counter(summary.memes.splits)
    spec = summary.store.spec
    new = sum(summary.work.embedded.values()) + summary.work.prompts["embedded"]
    device = f" on {summary.work.device}" if summary.work.device else ", not loaded: nothing to embed"
    handling = "embedded in pieces" if settings.options.long_text == "chunk" else "cut"
    too_long = f"{summary.too_long} longer than {spec['tokenizer']['context_length']} tokens, {handling}"
    lines = [
        f"memes      {len(summary.memes)} ({', '.join(f'{n} {split}' for split, n in splits.items())})",
        f"encoder    {settings.model} {settings.pretrained}".rstrip()
        + f" ({spec['feature']}, {spec['dtype']}, spec {spec_id(spec)}){device}",
        f"texts read {_ocr_counts(summary.reading)}" if summary.reading else "",
        f"images     {_counts(summary, 'image')}",
        f"texts      {_counts(summary, 'text')}; {too_long}",
        f"prompts    {_counts(summary, 'prompt')}; for zero-shot CLIP, beside the memes' texts",
        f"skipped    {len(summary.skipped)} meme{'' if len(summary.skipped) == 1 else 's'}",
        *(f"           {line}" for line in _skipped(summary)),
        f"rate       {new / summary.work.seconds:.0f} vectors/s ({new} in {summary.work.seconds:.1f} s: {_spent(summary)})"
        if new
        else "",
        f"vectors    {summary.store.folder}",
        f"index      {settings.index}",
        _notice(settings, summary),
    ]
    return "\n".join(line for line in lines if line)


def _as_json(settings: EmbedSettings, summary: Summary) -> dict[str, Any]:
    spec = summary.store.spec
    return {
        "memes": len(summary.memes),
        "splits": Counter(summary.memes.splits),
        "model": settings.model,
        "pretrained": settings.pretrained,
        "spec": spec_id(spec),
        "features": spec["feature"],
        "dtype": spec["dtype"],
        "device": summary.work.device,
        "ocr": asdict(summary.reading) if summary.reading else None,
        "distinct": summary.work.distinct,
        "cached": summary.work.cached,
        "embedded": summary.work.embedded,
        "prompts": summary.work.prompts,
        "too_long": summary.too_long,
        "long_text": settings.options.long_text,
        "skipped": [{"id": name, "where": where, "reason": reason} for name, where, reason in summary.skipped],
        "seconds": summary.work.seconds,
        "spent": summary.work.spent,
        "vectors": str(summary.store.folder),
        "index": str(settings.index),
        "notice": _notice(settings, summary),
    }


def _notice(settings: EmbedSettings, summary: Summary) -> str:
    """That the demo encoder has met other data, or ""."""
    spec = summary.store.spec
    return demo_notice(spec, content_of(read_index(settings.index).image_keys)) if is_demo_encoder(spec) else ""


def _ocr_counts(reading: Reading) -> str:
    rate = f" in {reading.seconds:.1f} s" if reading.read else ""
    failed = f", {reading.failed} unreadable" if reading.failed else ""
    failed += f", {reading.unread} not read: OCR=on reads them" if reading.unread else ""
    pictures = f"{reading.pictures} pictures: {reading.known} read before, {reading.read} now{rate}{failed}"
    return f"{reading.filled} of {reading.empty} empty texts ({pictures}) by {reading.engine}"


def _spent(summary: Summary) -> str:
    """Shares of the time by step, largest first."""
    total = sum(summary.work.spent.values()) or 1.0
    most = sorted(summary.work.spent.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in most)


def _skipped(summary: Summary) -> list[str]:
    lines = [
        # a name may contain control characters
        f"{name if name.isprintable() else ascii(name)} ({where}): {reason}"
        for name, where, reason in summary.skipped[:_SKIPPED_LINES]
    ]
    more = len(summary.skipped) - len(lines)
    return lines + ([f"and {more} more; the index has every reason"] if more else [])


def _counts(summary: Summary, part: str) -> str:
    if part == "prompt":
        distinct, cached, new = (summary.work.prompts[name] for name in ("distinct", "cached", "embedded"))
    else:
        distinct, cached, new = summary.work.distinct[part], summary.work.cached[part], summary.work.embedded[part]
    return f"{distinct} distinct: {cached} already cached, {new} newly embedded"


if __name__ == "__main__":
    # threads would finish their batch first: many seconds for a large model
    run_as_command(main, at_once=(130,))
