"""`python -m embed --data FOLDER --model NAME --pretrained TAG_OR_FILE`: fill the cache, write the dataset index.

Notes and progress go to stderr, the summary to stdout. Exit 0: done; 2: bad input, said in a sentence;
130: interrupted, and everything finished is kept.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from cache import spec_id
from embed.job import DEVICES, EmbedSettings, Summary, embed_dataset

# A screenful; a data set whose pictures are elsewhere would print thousands.
_SKIPPED_LINES = 20


def main(arguments: list[str] | None = None) -> int:
    """Run the job; return the exit code."""
    settings = EmbedSettings(**vars(_parser().parse_args(arguments)))
    try:
        summary = embed_dataset(settings, say=lambda note: print(note, file=sys.stderr))
    except KeyboardInterrupt:
        print("interrupted; what was embedded is kept, run the same command to go on", file=sys.stderr)
        return 130
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"error: {error}; results go to {settings.artifacts}/, and what was finished there is kept", file=sys.stderr
        )
        return 2
    print(_report(settings, summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m embed", description="Embed a folder of memes with CLIP, once.")
    parser.add_argument("--data", default="demo/memes", help="folder of memes, or one CSV (default: %(default)s)")
    parser.add_argument("--model", default="local-dir:demo/encoder", help="open_clip model (default: %(default)s)")
    parser.add_argument("--pretrained", default="", help="open_clip tag of the weights, or a local checkpoint file")
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where results go")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="auto: the GPU if there is one")
    parser.add_argument("--retry-failed", action="store_true", help="try again the pictures that failed before")
    return parser


def _report(settings: EmbedSettings, summary: Summary) -> str:
    splits = Counter(meme.split for meme in summary.memes)
    new = sum(summary.embedded.values())
    device = f" on {summary.device}" if summary.device else ", not loaded: nothing to embed"
    truncated = f"{summary.truncated} longer than {summary.store.spec['tokenizer']['context_length']} tokens, cut"
    lines = [
        f"memes      {len(summary.memes)} ({', '.join(f'{n} {split}' for split, n in splits.items())})",
        f"encoder    {settings.model} {settings.pretrained}".rstrip()
        + f" (spec {spec_id(summary.store.spec)}){device}",
        f"images     {_counts(summary, 'image')}",
        f"texts      {_counts(summary, 'text')}; {truncated}",
        f"skipped    {len(summary.skipped)} meme{'' if len(summary.skipped) == 1 else 's'}",
        *(f"           {line}" for line in _skipped(summary)),
        f"rate       {new / summary.seconds:.0f} vectors/s ({new} in {summary.seconds:.1f} s)" if new else "",
        f"vectors    {summary.store.folder}",
        f"index      {settings.index}",
    ]
    return "\n".join(line for line in lines if line)


def _skipped(summary: Summary) -> list[str]:
    lines = [
        # a name may hold anything, a line break too
        f"{name if name.isprintable() else ascii(name)} ({where}): {reason}"
        for name, where, reason in summary.skipped[:_SKIPPED_LINES]
    ]
    more = len(summary.skipped) - len(lines)
    return lines + ([f"and {more} more; the index has every reason"] if more else [])


def _counts(summary: Summary, kind: str) -> str:
    distinct, cached, new = summary.distinct[kind], summary.cached[kind], summary.embedded[kind]
    return f"{distinct} distinct: {cached} already cached, {new} newly embedded"


if __name__ == "__main__":
    sys.exit(main())
