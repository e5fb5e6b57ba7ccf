"""Command line of the cache: verify, count, compact, export and import vectors.

    python -m cache verify | stats [--json] | compact
    python -m cache export INDEX OUT.npz|OUT.parquet
    python -m cache import FILE.npz|FILE.parquet NAME

Results go to stdout, notes and progress to stderr; neither a model nor torch is loaded. Exit codes: 0 done, 1 `verify`
found damage, 2 an input error, reported in one sentence, 130 stopped by Ctrl-C.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from cache.edge import Parser, announce, exit_codes, run_as_command, stop_quietly

if __name__ == "__main__":
    stop_quietly()

from cache.contents import UnusableStore, open_store, store_folders
from cache.demo import chosen_model
from cache.exchange.exporting import export_index
from cache.exchange.formats import SUFFIXES
from cache.exchange.importing import import_rows
from cache.index.dataset_index import find_index
from cache.layout import FEATURES, LONG_TEXTS, DatasetRequest, Layout
from cache.stats import Record, stats
from cache.store.compaction import compact
from cache.verify import verify

_STORE_COLUMNS = ("spec_id", "model", "feature", "dtype", "images", "texts", "failures", "segments", "MB", "damaged")
_INDEX_COLUMNS = ("index", "spec_id", "rows", "skipped", "splits")


@exit_codes("stopped; finished work is kept")
def main(arguments: list[str] | None = None) -> int:
    """Run one command; return the exit code."""
    options = _parser().parse_args(arguments)
    return options.run(options)


def _parser() -> Parser:
    parser = Parser(prog="python -m cache", description="Verify, count, compact, export and import cached vectors.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        form = argparse.ArgumentDefaultsHelpFormatter
        added = commands.add_parser(name, help=summary, description=summary, formatter_class=form)
        added.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="folder of vectors and indexes")
        added.set_defaults(run=run)
        return added

    command("verify", _verify, "verify all checksums and list damaged files")
    command("stats", _stats, "count stores and indexes").add_argument("--json", action="store_true", help="as JSON")
    command("compact", _compact, "merge the small segments of each store")
    exporting = command("export", _export, f"write an index's vectors as {' or '.join(SUFFIXES)}")
    exporting.add_argument("index", metavar="INDEX", help="index file, or data folder as given to the embedding job")
    exporting.add_argument("out", metavar="OUT", type=Path, help="file to write")
    exporting.add_argument("--model", default="", help="encoder, where INDEX is a data folder with several indexes")
    exporting.add_argument("--pretrained", default="", help="its checkpoint, as given to the embedding job")
    exporting.add_argument("--features", choices=FEATURES, default=FEATURES[0], help="as given to the embedding job")
    exporting.add_argument(
        "--long-text", choices=LONG_TEXTS, default=LONG_TEXTS[0], help="as given to the embedding job"
    )
    importing = command("import", _import, "import vectors, ids, labels and splits from a file")
    importing.add_argument("file", metavar="FILE", type=Path, help=" or ".join(SUFFIXES))
    importing.add_argument("name", metavar="NAME", help="of the new index, datasets/NAME.h5")
    return parser


def _verify(options: argparse.Namespace) -> int:
    _begin("verify", options.artifacts)
    found = verify(options.artifacts)
    for finding in found.findings:
        print(f"{finding.damage}\n    {finding.remedy}")
    print(
        f"{found.stores} stores, {found.segments} segments, {found.bytes / 1e6:.1f} MB, {found.indexes} indexes: "
        + (f"{len(found.findings)} damaged" if found.findings else "no damage")
    )
    return 1 if found.findings else 0


def _stats(options: argparse.Namespace) -> int:
    _begin("stats", options.artifacts)
    counted = stats(options.artifacts)
    if options.json:
        print(json.dumps(counted, indent=1))
        return 0
    stores = [{**store, "MB": f"{store['bytes'] / 1e6:.1f}"} for store in counted["stores"]]
    indexes = [{**index, "splits": _splits(index.get("splits", {}))} for index in counted["indexes"]]
    for columns, records in ((_STORE_COLUMNS, stores), (_INDEX_COLUMNS, indexes)):
        print("\n".join(_table(columns, [record for record in records if "problem" not in record])))
    for record in (*stores, *indexes):
        if "problem" in record:
            print(record["problem"])
    return 0


def _splits(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {split}" for split, count in counts.items())


def _table(columns: tuple[str, ...], records: list[Record]) -> list[str]:
    cells = [columns, *(["-" if record[name] is None else str(record[name]) for name in columns] for record in records)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in cells]


def _compact(options: argparse.Namespace) -> int:
    for folder in _begin("compact", options.artifacts):
        try:
            store = open_store(folder)
        except UnusableStore as error:
            _note(f"{error}; skipped, `make embed` repairs it")
            continue
        done = compact(store, lambda: _note("another job is filling this cache; waiting for it"))
        for name in done.damaged:
            _note(f"{folder / name} is damaged or missing and was skipped; `make embed` recomputes its rows")
        print(f"{folder}: {done.segments[0]} segments before, {done.segments[1]} now")
    return 0


def _export(options: argparse.Namespace) -> int:
    model = chosen_model(options.index, options.model)
    request = DatasetRequest(options.index, model, options.pretrained, options.features, options.long_text)
    index_file = find_index(options.artifacts, request)
    announce("export", index=index_file, to=options.out)
    rows = export_index(index_file, Layout(options.artifacts).vectors, options.out)
    print(f"{options.out}: {rows} rows of {index_file}")
    return 0


def _import(options: argparse.Namespace) -> int:
    path = import_rows(options.file, options.name, options.artifacts, _note)
    print(f"{path}: now `make tune DATA={path}`")
    return 0


def _begin(command: str, artifacts: Path) -> list[Path]:
    """Say what the command works on; the folders of the stores. Raises NoCache."""
    folders = store_folders(artifacts)
    announce(command, artifacts=artifacts)
    return folders


def _note(message: str) -> None:
    print(message, file=sys.stderr)


if __name__ == "__main__":
    run_as_command(main)
