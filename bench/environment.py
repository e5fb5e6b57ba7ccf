"""A peer's virtual environment: made once, and made again when what belongs in it changes.

It does not know what the peer is for; `bench.servers` and `bench.retrieval` say what belongs in and how to try it.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.machine import CommandFailed, run, say


class NoPeer(RuntimeError):
    """A peer cannot be installed here; the message says why."""


def install(
    peer: str,
    folder: Path,
    pins: Sequence[str],
    trial: Sequence[str],
    env: Mapping[str, str],
    behind: Path | None = None,
) -> Path:
    """The interpreter of `folder`, an environment with `pins`; made if it is not there as wanted. Raises NoPeer.

    peer: what is told of it; trial: arguments of an interpreter that can run it, under `env`. behind: packages that it
    sees behind its own, by a .pth file written after the installation, so that pip changes nothing of theirs.
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
        raise NoPeer(f"{peer} could not be installed: {error}") from error
    marker.write_text(wanted, "utf-8")  # the last, so that what was interrupted is done again
    return interpreter
