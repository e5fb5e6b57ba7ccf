"""Model bundles on disk: their versions, which is in use, and finding one by its path or its name.

    artifacts/bundles/<name>/<version>/   a bundle, never overwritten; versions sort by age
    artifacts/bundles/<name>/latest       link to the version of this name that is in use
    artifacts/bundles/latest              link to the version that is served by default

It reads no bundle.
"""

import os
from pathlib import Path

from cache.layout import Layout

CONFIG = "config.json"
LATEST = "latest"


class NoBundle(ValueError):
    """There is no model bundle of this path or name."""


def find_bundle(bundle: Path, artifacts: Path) -> Path:
    """The folder of a bundle, links followed: `bundle` itself, `<name>/<version>`, or of a name the version in use.

    Raises NoBundle, naming those that exist.
    """
    layout = Layout(artifacts)
    for folder in (bundle, layout.bundle(str(bundle))):
        for place in (folder, folder / LATEST, *reversed(version_folders(folder))):
            if _is_bundle(place):
                return followed(place)
    names = bundle_names(layout)
    existing = f"existing bundles: {', '.join(names)}" if names else "`make tune` writes a model bundle"
    raise NoBundle(f"{bundle / CONFIG}: no such file; {existing}")


def bundle_names(layout: Layout) -> list[str]:
    """The names that have a bundle, sorted."""
    folders = _visible(layout.bundles)
    return [folder.name for folder in folders if _is_bundle(folder) or version_folders(folder)]


def version_folders(folder: Path) -> list[Path]:
    """The versions of the name that `folder` belongs to, oldest first."""
    return [version for version in _visible(folder) if _is_bundle(version)]


def followed(path: Path) -> Path:
    """The path that a link leads to, beside the link: a relative path stays relative."""
    while path.is_symlink():
        path = path.parent / os.readlink(path)
    return path


def _visible(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without links and hidden files."""
    try:
        return sorted(path for path in folder.iterdir() if not path.is_symlink() and not path.name.startswith("."))
    except OSError:
        return []


def _is_bundle(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file()
    except PermissionError:
        return True  # whoever reads it says so
