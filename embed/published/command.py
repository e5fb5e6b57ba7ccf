"""List sources and terms of the published data sets, or compare a folder with them.

    python -m embed data [FOLDER]

A folder, or Hateful Memes' zip file, is compared by counts and hashes with `embed.published.registry`. Nothing is
downloaded: getting the data and agreeing to their terms is up to the user.
Exit 0: everything known agrees; 1: something differs; 2: bad input, reported in one sentence; 130: interrupted.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from cache import Parser, announce, exit_codes
from embed.published.check import UNKNOWN, Check, check, recognise
from embed.published.registry import PUBLISHED, Published, PublishedSplit

_AGREES = "Everything known agrees."


@exit_codes("interrupted")
def main(arguments: list[str] | None, known: Sequence[Published] = PUBLISHED) -> int:
    """Describe the data sets, or check the folder in the arguments; return the exit code."""
    folder = _parser().parse_args(arguments).folder
    if folder is None:
        print("\n\n".join(map(_describe, known)))
        print("\nThis project downloads none of these links, and they have not been tested.")
        return 0
    published = recognise(folder, known)
    announce("data", folder=folder, published=published.name)
    checks = check(folder, published)
    print(_report(folder, published, checks))
    return int(not all(found.agrees for found in checks))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m embed data", description="List the published data sets, or check a folder against them."
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="the downloaded folder or zip file")
    return parser


def _describe(published: Published) -> str:
    lines = [
        ("what", published.what),
        ("where", published.where[0]),
        *(("", more) for more in published.where[1:]),
        ("terms", published.terms),
        ("layout", f"a folder with {' and '.join(published.layout)}"),
        *(("counts" if number == 0 else "", _counts(split)) for number, split in enumerate(published.splits)),
        ("note", published.remark),
        ("next", "make data DATA=<that folder>" + (" or DATA=<the zip file>" if published.archives else "")),
    ]
    return "\n".join([published.name, *(f"  {name:<8}{text}" for name, text in lines)])


def _counts(split: PublishedSplit) -> str:
    offensive = f", {split.offensive} offensive" if split.offensive is not None else ""
    facts = {"offensive": split.offensive, "hashes": split.table_hash}
    unknown = [name for name, fact in facts.items() if fact is None]
    return (
        f"{split.name} {split.rows} rows{offensive}"
        + (f"; {' and '.join(unknown)} not known here" if unknown else "")
        + ("" if split.needed else "; not needed")
    )


def _report(folder: Path, published: Published, checks: list[Check]) -> str:
    wrong = sum(not found.agrees for found in checks)
    unknown = sum(found.verdict == UNKNOWN for found in checks)
    verdict = f"{wrong} of {len(checks)} checks fail: differs from what was published." if wrong else _AGREES
    return "\n".join(
        [
            f"{folder}: {published.name}",
            "",
            *(f"{found.split:<13}{found.what:<13}{found.verdict:<24}{found.here}" for found in checks),
            "",
            verdict + (f" {unknown} of {len(checks)} could not be checked: not known here." if unknown else ""),
            f"Note: {published.remark}.",
            f"Next: make audit DATA={shlex.quote(str(folder))}"
            if folder.is_dir()
            else "Next: unpack it, make data DATA=<its folder>",
        ]
    )
