"""Create a peer's virtual environment once, and again when its pinned packages change.

`bench.servers` and `bench.retrieval` define the packages.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import CommandFailed, run, say


class PeerUnavailable(RuntimeError):
    """A peer cannot be installed here; the message says why."""


def install(
    peer: str,
    folder: Path,
    pins: Sequence[str],
    trial: Sequence[str],
    env: Mapping[str, str],
    behind: Path | None = None,
) -> Path:
    """The interpreter of the environment `folder` with `pins`, created if needed. Raises PeerUnavailable.

    peer: name for messages; trial: interpreter arguments that must succeed, under `env`; behind: a site-packages folder
    to search after its own, added by a .pth file after the installation, so that pip does not change it.
    """
    interpreter, marker = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join([*pins, *([str(behind)] if behind else [])])
    if marker.exists() and marker.read_text("utf-8") == wanted:
        return interpreter
    say(f"installing {peer} into {folder} (once; it may take minutes)")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run([sys.executable, "-m", "venv", folder])
        run([interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins])
        if behind:
            own = run([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).stdout.strip()
            (Path(own) / "project.pth").write_text(f"{behind}\n", "utf-8")
        run([interpreter, *trial], env)
    except (CommandFailed, OSError) as error:
        raise PeerUnavailable(f"{peer} could not be installed: {error}") from error
    marker.write_text(wanted, "utf-8")  # last, so that an interrupted installation is repeated
    return interpreter
