"""`python -m embed data`: the published data sets, where they are and on what terms; `... data FOLDER`: is this one?

Compares the folder, or Hateful Memes' zip file, by counts and hashes with what `embed.published.registry` knows. It loads no
model and fetches nothing: getting the data, and agreeing to their terms, is yours.
Exit 0: all that is known agrees; 1: something differs; 2: bad input, said in a sentence; 130: interrupted.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from cache import refuse
from embed.published.check import UNKNOWN, Check, check, recognise
from embed.published.registry import PUBLISHED, Published, PublishedSplit

_AGREES = "All that is known agrees."


def main(arguments: list[str], known: Sequence[Published] = PUBLISHED) -> int:
    """Describe the data sets, or check the folder that the arguments name; return the exit code."""
    folder = _parser().parse_args(arguments).folder
    if folder is None:
        print("\n\n".join(map(_described, known)))
        print("\nNothing in this project fetches these links, and none of them was visited from here.")
        return 0
    try:
        published = recognise(folder, known)
        checks = check(folder, published)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        return refuse(error)
    print(_checked(folder, published, checks))
    return int(not all(found.agrees for found in checks))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embed data", description="Say where the data are published, or check a folder of them."
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="what you got: the folder, or the zip")
    return parser


def _described(published: Published) -> str:
    lines = [
        ("what", published.what),
        ("where", published.where[0]),
        *(("", more) for more in published.where[1:]),
        ("terms", published.terms),
        ("layout", f"a folder with {' and '.join(published.layout)}"),
        *(("counts" if number == 0 else "", _counted(split)) for number, split in enumerate(published.splits)),
        ("mind", published.remark),
        ("next", "make data DATA=<that folder>" + (" or DATA=<the zip file>" if published.archives else "")),
    ]
    return "\n".join([published.name, *(f"  {name:<8}{text}" for name, text in lines)])


def _counted(split: PublishedSplit) -> str:
    offensive = f", {split.offensive} offensive" if split.offensive is not None else ""
    facts = {"offensive": split.offensive, "hashes": split.table_hash}
    unknown = [name for name, fact in facts.items() if fact is None]
    return (
        f"{split.name} {split.rows} rows{offensive}"
        + (f"; {' and '.join(unknown)} not known here" if unknown else "")
        + ("" if split.needed else "; not needed")
    )


def _checked(folder: Path, published: Published, checks: list[Check]) -> str:
    wrong = sum(not found.agrees for found in checks)
    unknown = sum(found.verdict == UNKNOWN for found in checks)
    verdict = f"{wrong} of {len(checks)} checks fail: not, or not all of, what was published." if wrong else _AGREES
    return "\n".join(
        [
            f"{folder}: {published.name}",
            "",
            *(f"{found.split:<13}{found.what:<13}{found.verdict:<24}{found.here}" for found in checks),
            "",
            verdict + (f" {unknown} of {len(checks)} could not be made: not known here." if unknown else ""),
            f"Mind: {published.remark}.",
            f'Next: make audit DATA="{folder}"' if folder.is_dir() else "Next: unpack it, make data DATA=<its folder>",
        ]
    )
