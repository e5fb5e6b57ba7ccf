"""Cache the feature spec of an encoder request, so that a run with nothing to do loads no model.

An entry is valid while the library versions and the files' size and times are unchanged. It is a hint for planning: the
job compares the actual spec when it loads the model.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cache import file_stamp, write_text_atomically
from embed.clip.options import LOCAL_DIR, EncoderRequest, library_versions


def recall_spec(memory: Path, wanted: EncoderRequest) -> dict[str, Any] | None:
    """The spec that `remember_spec` stored for this request, or None if absent or outdated."""
    request = _request(wanted)
    try:
        noted = _read(memory)[request]
        unchanged = all(file_stamp(Path(path)) == stamp for path, stamp in noted["files"].items())
        return noted["spec"] if unchanged else None
    except (TypeError, KeyError, AttributeError):  # absent, damaged or of another version
        return None


def remember_spec(memory: Path, wanted: EncoderRequest, spec: dict[str, Any], weights: Path) -> None:
    """Store the spec of a loaded request, unless its weights are on other machines only. Raises OSError."""
    if not weights.is_file():
        return
    files = [weights, *filter(None, [wanted.delta])]
    if wanted.model.startswith(LOCAL_DIR):
        folder = Path(wanted.model.removeprefix(LOCAL_DIR))
        files += [folder, *filter(Path.is_file, folder.iterdir())]  # config, tokenizer; the folder: what is added
    noted = {"spec": spec, "files": {str(path.resolve()): file_stamp(path) for path in files}}
    text = json.dumps(_read(memory) | {_request(wanted): noted}, indent=1, sort_keys=True)
    write_text_atomically(memory, text)


def _request(wanted: EncoderRequest) -> str:
    whole = wanted.absolute()
    delta = [str(whole.delta)] if whole.delta else []
    options = {name: value for name, value in asdict(whole.options).items() if name != "prefer"}
    return json.dumps([whole.model, whole.pretrained, options, library_versions(), *delta], sort_keys=True)


def _read(memory: Path) -> dict[str, Any]:
    try:
        noted = json.loads(memory.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}
