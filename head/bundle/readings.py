"""How often the test memes of a data set have been looked at: a line for each bundle that was judged by them.

Each look is a chance to choose by what was seen; whoever reads a figure is told of the looks before it. Written by
`head.bundle.evaluation`, read by the report.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def note_reading(artifacts: Path, config: dict[str, Any], memes: int) -> None:
    """Add a line for the bundle of this config. Raises OSError."""
    path = _path(artifacts, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"bundle": config["name"], "version": config["version"], "date": _today(), "memes": memes}
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_readings(artifacts: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the bundle's data set, the first look first; a line that a kill cut short is left out."""
    try:
        lines = _path(artifacts, config).read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


def _path(artifacts: Path, config: dict[str, Any]) -> Path:
    """One file a data set, whatever the encoder: an index is named after the data, then the encoder."""
    data = Path(config["data"]["index"]).stem.partition("--")[0]
    return artifacts / "test-readings" / f"{data}.jsonl"


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
