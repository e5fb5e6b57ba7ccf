"""The audit's page: one HTML file that needs nothing beside it, with small copies of the pictures it speaks of.

Everything in it that comes from the data is escaped. `python -m embed audit DATA` writes it.
"""

import base64
import io
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from cache import data_name, write_bytes_atomically
from embed.audit.findings import LABELS, Finding, Group, OddRow
from embed.base.threads import run_ahead
from embed.data.dataset import Meme
from embed.pictures.decoding import UnreadableImage, decode_picture
from embed.pictures.hashing import UnusableFile, read_picture

# Groups with pictures: a page of some megabytes, which a browser opens at once.
_GROUPS = 100
# Of a group of many; the others are counted.
_MEMES = 4
_ROWS = 200
_THUMBNAIL, _QUALITY = 240, 70
_TEXT = 400
_NAME = 90
_TEMPLATE = Path(__file__).parent / "templates" / "audit.html"


def page_path(artifacts: Path, data: str) -> Path:
    """Where the page of a data folder goes; of a name that is too long for a file, its end."""
    return artifacts / "audit" / f"{data_name(data)[-_NAME:]}.html"


def write_page(path: Path, name: str, root: Path, heading: list[str], findings: list[Finding]) -> None:
    """Write the page. name: of the data; heading: lines, the first word or words of each a name; root: of the pictures.

    Raises OSError when it cannot be written.
    """
    shown = _choose(findings)
    memes = [meme for groups in shown.values() for group in groups for meme in group.memes[:_MEMES]]
    thumbnails = _thumbnails(root, memes)
    sections = [_section(finding, shown[finding.name], thumbnails) for finding in findings if len(finding)]
    page = Template(_TEMPLATE.read_text("utf-8")).substitute(
        title=escape(f"What is odd about {name}"),
        facts="".join(_fact(line) for line in heading),
        counts="".join(_count(finding) for finding in findings),
        sections="\n".join(sections) or "<p>Nothing odd was found.</p>",
    )
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))


def _choose(findings: list[Finding]) -> dict[str, list[Group]]:
    """The groups of each finding that are shown: a fair share of the page for each, the gravest first as they come."""
    chosen: dict[str, list[Group]] = {finding.name: [] for finding in findings}
    left = _GROUPS
    for place in range(_GROUPS):
        for finding in findings:
            if left and place < len(finding.groups):
                chosen[finding.name].append(finding.groups[place])
                left -= 1
    return chosen


def _thumbnails(root: Path, memes: Iterable[Meme]) -> dict[str, str]:
    """{image: data URI}, "" for what cannot be shown."""
    names = list(dict.fromkeys(meme.image for meme in memes if not meme.problem))
    return dict(zip(names, run_ahead(lambda name: _thumbnail(root / name), names, len(names) + 1), strict=True))


def _thumbnail(path: Path) -> str:
    try:
        picture = decode_picture(read_picture(path)).convert("RGB")
    except (UnusableFile, UnreadableImage):
        return ""
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _fact(line: str) -> str:
    name, _, value = line.partition(" ")
    return f"<dt>{escape(name)}</dt><dd>{escape(value.strip())}</dd>"


def _count(finding: Finding) -> str:
    title = escape(finding.title)
    link = f'<a href="#{finding.name}">{title}</a>' if len(finding) else title
    return f"<tr><th>{link}</th><td>{len(finding)}</td></tr>"


def _section(finding: Finding, groups: list[Group], thumbnails: dict[str, str]) -> str:
    parts = [
        f'<section id="{finding.name}"><h2>{escape(finding.title.capitalize())}: {len(finding)}</h2>',
        f'<p class="note">{escape(finding.advice)}</p>',
    ]
    if finding.rows:
        parts.append(f'<ul class="rows">{"".join(_row(row) for row in finding.rows[:_ROWS])}</ul>')
    parts += [_group(group, thumbnails) for group in groups]
    more = len(finding) - len(groups) - len(finding.rows[:_ROWS])
    if more:
        parts.append(f'<p class="note">and {more} more; --json lists every one</p>')
    return "\n".join([*parts, "</section>"])


def _row(row: OddRow) -> str:
    name = f"<b>{escape(_cut(row.id))}</b> " if row.id else ""
    return f"<li>{name}<small>{escape(row.where)}</small> {escape(_cut(row.reason))}</li>"


def _group(group: Group, thumbnails: dict[str, str]) -> str:
    marks = [
        '<b class="conflict">labels conflict</b>' if group.conflict else "",
        f"<b>across {escape(', '.join(group.splits))}</b>" if len(group.splits) > 1 else "",
        escape(group.note),
        f"{len(group.memes) - _MEMES} more not shown" if len(group.memes) > _MEMES else "",
    ]
    memes = "".join(_meme(meme, thumbnails.get(meme.image, "")) for meme in group.memes[:_MEMES])
    said = ", ".join(filter(None, marks))
    return f'<article><p class="marks">{said}</p><div class="memes">{memes}</div></article>'


def _meme(meme: Meme, thumbnail: str) -> str:
    name = escape(_cut(meme.image))
    picture = f'<img src="{thumbnail}" alt="{name}">' if thumbnail else '<p class="none">no picture</p>'
    return (
        f'<figure>{picture}<figcaption><b class="label{meme.label}">{LABELS[meme.label]}</b>, {escape(meme.split)}'
        f"<br><code>{name}</code><br><small>{escape(meme.where)}</small>"
        f"<p>{escape(_cut(meme.text)) or '<i>no text</i>'}</p></figcaption></figure>"
    )


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else f"{text[:_TEXT]}..."
