"""Log of evaluations on a data set's test split, a line per bundle.

Repeated evaluation invites selection on test.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cache import Layout, naming


def note_reading(artifacts: Path, config: dict[str, Any], memes: int) -> None:
    """Append a line for the bundle of this config. Raises OSError."""
    path = _path(artifacts, config)
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {"bundle": config["name"], "version": config["version"], "date": _today(), "memes": memes}
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_readings(artifacts: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The lines of the bundle's data set, oldest first; incomplete lines are skipped. Raises OSError."""
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
    """One file per data set, for all encoders: the name of an index is that of the data, "--", the encoder."""
    data = Path(config["data"]["index"]).stem.partition("--")[0]
    return Layout(artifacts).test_readings(data)


def _today() -> str:
    return datetime.now(UTC).date().isoformat()
