"""Find problems in a folder of memes: missing pictures, near-duplicates, conflicting labels.

    python -m embed audit DATA

Decodes every picture, counts every text's tokens and finds near-duplicates; prints the findings and writes an HTML page.
It loads only the tokenizer, not the model, and does not use the cache.
Exit 0: done, with or without findings; 1: nothing in the data can be used; 2: unreadable data, reported in one sentence;
130: interrupted.
"""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cache import DEMO_DATA, Layout, Parser, announce, chosen_model, content_key, exit_codes, limit_threads, refuse
from embed.audit.findings import (
    Finding,
    Group,
    OddRow,
    PictureCheck,
    class_balance,
    duplicate_findings,
    row_findings,
    text_lengths,
)
from embed.audit.page import write_page
from embed.base.errors import DatasetError, RowError
from embed.base.threads import run_ahead
from embed.data.choices import Choices, add_choices, recall, remember
from embed.data.dataset import check_usable, scan_dataset
from embed.data.labels import LABEL_NAMES
from embed.data.memes import Meme
from embed.data.near_duplicates import picture_hash
from embed.data.understood import Understood
from embed.pictures.decoding import UnreadableImage, decode_stored, see
from embed.pictures.hashing import UnusableFile, read_ahead, read_picture

# Rows of a finding, and memes of a group, on the screen; the page and --json list more.
_LINES = 20
_MEMBERS = 4
# Rows with the same reason that are listed one by one.
_ALIKE = 5
# Characters of a name and of a line on the screen: names have no length limit.
_NAME, _WIDTH = 60, 300
# Pictures in the queue of the decoding threads.
_AHEAD = 256


@dataclass(frozen=True)
class Audit:
    """Results of an audit.

    balance: {split: {label: rows}}; lengths: see `embed.audit.findings.text_lengths`; useless: why nothing can be used.
    """

    data: str
    root: Path
    rows: int
    balance: dict[str, dict[str, int]]
    lengths: dict[str, Any]
    findings: list[Finding]
    understood: Understood
    useless: str = ""


@exit_codes("interrupted; nothing was written")
def main(arguments: list[str] | None) -> int:
    """Check the data set that the arguments name; return the exit code."""
    options = _parser().parse_args(arguments)
    page = Layout(options.artifacts).audit_page(options.data)
    announce("audit", data=options.data, page=page)
    limit_threads()
    try:
        file = Layout(options.artifacts).choices(options.data)
        choices = recall(file, options.data, options, lambda note: print(note, file=sys.stderr))
        audit = _audit(options.data, choices, chosen_model(options.data, options.model))
        remember(file, choices)
        write_page(page, Path(audit.data).resolve().name, audit.root, _heading(audit), audit.findings)
    except (ValueError, OSError) as error:
        return refuse(error, _printable)
    if options.json:
        print(json.dumps(_as_json(audit, page)))
    else:
        print("\n".join([*_heading(audit), *_table(audit.findings), f"\npage  {_printable(str(page))}"]))
    if audit.useless:
        print(f"error: {_printable(audit.useless)}", file=sys.stderr)
    return int(bool(audit.useless))


def _parser() -> Parser:
    parser = Parser(prog="python -m embed audit", description="Say what is odd about a data set.")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        default=DEMO_DATA,
        help="folder of memes, or one table (default: %(default)s)",
    )
    add_choices(parser)
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"), help="where the page goes")
    parser.add_argument(
        "--model", default="demo", help="whose tokenizer counts the texts (default: %(default)s, CLIP's own)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, every row in it")
    return parser


def _audit(data: str, choices: Choices, model: str) -> Audit:
    understood = Understood()
    root, scanned = scan_dataset(Path(data), choices, understood)
    rows = list(scanned)
    if not rows:
        raise DatasetError(f"{data}: its tables hold no rows")
    memes = [row for row in rows if isinstance(row, Meme)]
    row_errors = [row for row in rows if isinstance(row, RowError)]
    lengths = _text_lengths(memes, model)
    checks = check_pictures(root, [meme.image for meme in memes if not meme.problem])
    findings = row_findings(memes, row_errors, checks) + duplicate_findings(memes, checks)
    refused = len({row_error.where for row_error in row_errors})
    useless = _useless(data, memes, checks, understood)
    return Audit(data, root, len(memes) + refused, class_balance(memes), lengths, findings, understood, useless)


def _useless(data: str, memes: list[Meme], checks: dict[str, PictureCheck], understood: Understood) -> str:
    """Why none of the memes can be used, "" if one can."""
    if not any(not meme.problem and not checks[meme.image].problem for meme in memes):
        return f"{data}: none of its memes can be used; see the findings"
    try:
        check_usable(Path(data), understood)
    except DatasetError as error:
        return str(error)
    return ""


def check_pictures(root: Path, images: Iterable[str]) -> dict[str, PictureCheck]:
    """Decode each picture under `root` once: {image: check}; errors are in `PictureCheck.problem`."""
    names = list(dict.fromkeys(images))
    with read_ahead(root, names) as ahead:
        checks = run_ahead(lambda name: _check(ahead / name), names, _AHEAD)
        return dict(zip(names, tqdm(checks, "pictures", len(names), unit=" pictures", mininterval=0.5), strict=True))


def _check(path: Path) -> PictureCheck:
    try:
        data = read_picture(path)
        picture, changes = see(decode_stored(data))
    except (UnusableFile, UnreadableImage) as error:
        return PictureCheck(problem=str(error))
    return PictureCheck(content_key(data), hash=picture_hash(picture), changes=" and ".join(changes))


def _text_lengths(memes: list[Meme], model: str) -> dict[str, Any]:
    # imports torch, which takes seconds: an unusable folder is reported before that
    from embed.clip.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(model)
    distinct = dict.fromkeys(meme.text for meme in memes)
    with tqdm(distinct, desc="texts", unit=" texts", mininterval=0.5) as texts:
        return text_lengths(texts, tokenizer.count, tokenizer.context_length)


def _heading(audit: Audit) -> list[str]:
    """Counts of the data set, as lines for the screen and the page."""
    lengths = audit.lengths
    cut = f"{lengths['cut']} longer than {lengths['context_length']} tokens, cut"
    tokens = f"median {lengths['median_tokens']:g} tokens, longest {lengths['max_tokens']}"
    return [
        f"data        {_printable(audit.data)}: {audit.rows} rows",
        *(_printable(line) for line in audit.understood.lines() if not line.startswith("splits")),
        *(f"{split:<11} {', '.join(_counts(labels))}" for split, labels in audit.balance.items()),
        f"texts       {lengths['texts']} distinct, {tokens}; {cut}",
    ]


def _counts(labels: dict[str, int]) -> list[str]:
    total = max(1, sum(labels.values()))
    return [f"{count} {label} ({100 * count / total:.0f} %)" for label, count in labels.items() if count]


def _table(findings: list[Finding]) -> list[str]:
    """The counts of all findings, then the rows of those that are not empty."""
    lines = ["", *(f"{len(finding):>7}  {finding.title}{_group_counts(finding)}" for finding in findings)]
    for finding in findings:
        if len(finding):
            lines += ["", f"{finding.title}: {len(finding)} ({finding.advice})"]
            lines += _row_lines(finding.rows) + _first(finding.groups, _group_line)
    return lines


def _row_lines(rows: list[OddRow]) -> list[str]:
    """The rows; those with one reason are told together where there are more than a few."""
    by_reason = Counter(row.reason for row in rows)
    alone = [row for row in rows if by_reason[row.reason] <= _ALIKE]
    first = {row.reason: row for row in reversed(rows)}
    told = [
        f"  {_printable(f'{count} rows: {reason}; first {_name(first[reason])}')}"
        for reason, count in by_reason.most_common(_LINES)
        if count > _ALIKE
    ]
    return told + _first(alone, _row_line)


def _group_counts(finding: Finding) -> str:
    if not finding.groups:
        return ""
    crossing = sum(len(group.splits) > 1 for group in finding.groups)
    conflicts = sum(group.conflict for group in finding.groups)
    rows = sum(len(group.memes) for group in finding.groups)
    return f": groups of {rows} rows, {crossing} across splits, {conflicts} with conflicting labels"


def _first(items: list[Any], line: Callable[[Any], str]) -> list[str]:
    more = [f"  and {len(items) - _LINES} more; see the page or --json"] if len(items) > _LINES else []
    return [f"  {_printable(line(item))}" for item in items[:_LINES]] + more


def _row_line(row: OddRow) -> str:
    return f"{_name(row)}: {row.reason}"


def _name(row: OddRow) -> str:
    return f"{row.id} ({row.where})" if row.id else row.where


def _group_line(group: Group) -> str:
    members = [f"{m.id[:_NAME]} ({m.split}, {LABEL_NAMES[m.label]})" for m in group.memes[:_MEMBERS]]
    more = len(group.memes) - len(members)
    parts = [" + ".join(members) + (f" and {more} more" if more else ""), group.note]
    return ("CONFLICT " if group.conflict else "") + "; ".join(filter(None, parts))


def _printable(text: str) -> str:
    """A text from the data, safe to print: control characters are escaped, long texts cut."""
    text = text if text.isprintable() else ascii(text)
    return text if len(text) <= _WIDTH else f"{text[:_WIDTH]}..."


def _as_json(audit: Audit, page: Path) -> dict[str, Any]:
    findings = {
        finding.name: {
            "title": finding.title,
            "count": len(finding),
            "rows": [asdict(row) for row in finding.rows],
            "groups": [_group_json(group) for group in finding.groups],
        }
        for finding in audit.findings
    }
    facts = {"data": audit.data, "rows": audit.rows, "splits": audit.balance, "text_lengths": audit.lengths}
    return {**facts, "findings": findings, "page": str(page)}


def _group_json(group: Group) -> dict[str, Any]:
    memes = [
        {
            "where": m.where,
            "id": m.id,
            "image": m.image,
            "text": m.text,
            "label": LABEL_NAMES[m.label],
            "split": m.split,
        }
        for m in group.memes
    ]
    return {"splits": group.splits, "conflict": group.conflict, "note": group.note, "memes": memes}
