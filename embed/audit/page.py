"""Write the audit's report: one self-contained HTML page with embedded thumbnails.

Jinja2 escapes everything that comes from the data.
"""

from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cache import write_bytes_atomically
from embed.audit.findings import Finding, Group
from embed.base.threads import run_ahead
from embed.data.labels import LABEL_NAMES
from embed.data.memes import Meme
from embed.pictures.thumbnails import thumbnail

# Groups shown with pictures: a page of a few megabytes, which a browser opens at once.
_GROUPS = 100
# Memes shown per group; the page states the number of the others.
_MEMES = 4
# Rows listed per finding.
_ROWS = 200
# Longer side of a thumbnail, in pixels.
_SIDE = 240
# Characters shown of a text.
_TEXT = 400
_TEMPLATES = FileSystemLoader(Path(__file__).parent / "templates")


def write_page(path: Path, name: str, root: Path, heading: list[str], findings: list[Finding]) -> None:
    """Write the page to `path`. Raises OSError.

    name: of the data set; heading: lines of a name in 12 columns and a value; root: folder or URL of the pictures.
    """
    environment = Environment(
        loader=_TEMPLATES, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["cut"] = _cut
    shown = _choose(findings)
    memes = [meme for groups in shown.values() for group in groups for meme in group.memes[:_MEMES]]
    page = environment.get_template("audit.html").render(
        title=f"What is odd about {name}",
        heading=heading,
        findings=findings,
        shown=shown,
        thumbnails=_thumbnails(root, memes),
        labels=LABEL_NAMES,
        most_memes=_MEMES,
        most_rows=_ROWS,
    )
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))


def _choose(findings: list[Finding]) -> dict[str, list[Group]]:
    """The groups to show of each finding, `_GROUPS` in all, taken from the findings in turn and in their order."""
    chosen: dict[str, list[Group]] = {finding.name: [] for finding in findings}
    left = _GROUPS
    for place in range(_GROUPS):
        for finding in findings:
            if left and place < len(finding.groups):
                chosen[finding.name].append(finding.groups[place])
                left -= 1
    return chosen


def _thumbnails(root: Path, memes: Iterable[Meme]) -> dict[str, str]:
    """{image: data URI, or "" if it has no thumbnail}."""
    names = list(dict.fromkeys(meme.image for meme in memes if not meme.problem))
    made = run_ahead(lambda name: thumbnail(root / name, _SIDE), names, len(names) + 1)
    return dict(zip(names, made, strict=True))


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
