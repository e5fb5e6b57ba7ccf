"""Versions of a model bundle: written beside each other, put into use by a link, removed on request.

The folders are those of `cache.bundles`. A version's name is its date and the beginning of its hash.
"""

import os
import shutil
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from cache import CONFIG, LATEST, Layout, bundle_names, followed, version_folders
from head.bundle.format import UnusableBundle, bundle_files, read_config, read_part, write_bundle
from head.model.ensemble import HeadEnsemble

_DATE = "%Y%m%d-%H%M%S"


@dataclass(frozen=True, eq=False)
class Version:
    """A bundle on disk, and its config.json; metrics: of the report, where it has evaluated the bundle, else of tuning."""

    folder: Path
    config: dict[str, Any]

    @property
    def title(self) -> str:
        """<name>/<version>, as BUNDLE takes it."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @cached_property
    def metrics(self) -> dict[str, Any]:
        return read_part(self.folder, "metrics.json") or self.config["tuning_metrics"]


def save_version(
    layout: Layout,
    ensembles: dict[str, HeadEnsemble],
    settings: dict[str, Any],
    predictions: dict[str, Any],
    further: dict[str, bytes] | None = None,
) -> Version:
    """Write a new version of the bundle that settings["name"] names; arguments and errors as `head.bundle.format.bundle_files` and
    `write_bundle`."""
    take_over(layout, settings["name"])
    config, files = bundle_files(ensembles, settings, predictions, further or {})
    home = layout.bundle(config["name"])
    dates = [date for folder in version_folders(home) if (date := _date_of(folder))]
    folder = home / _folder_name(config, after=max(dates, default=None))
    write_bundle(folder, files)
    return Version(folder, config)


def use(layout: Layout, folder: Path) -> str:
    """Put the version in `folder` into use; returns "<it>, instead of <the one before>". Raises OSError, and ValueError for a
    folder elsewhere."""
    name = folder.parent.name
    if folder.parent.resolve() != layout.bundle(name).resolve():
        raise ValueError(f"{folder}: not a version under {layout.bundles}; `make bundles` lists those")
    before = in_use(layout)
    _link(folder.parent / LATEST, Path(folder.name))
    _link(layout.bundles / LATEST, Path(name) / folder.name)
    after = Path(name) / folder.name
    was = before and before.relative_to(layout.bundles)
    return str(after) if was in (None, after) else f"{after}, instead of {was}"


def in_use(layout: Layout) -> Path | None:
    """The folder of the version in use, None where there is none."""
    folder = followed(layout.bundles / LATEST)
    return folder if (folder / CONFIG).is_file() else None


def versions(layout: Layout) -> tuple[list[Version], list[str]]:
    """All versions, by name and age; and for each that cannot be read, why."""
    found, unusable = [], []
    for name in bundle_names(layout):
        for folder in version_folders(layout.bundle(name)):
            try:
                found.append(Version(folder, read_config(folder)))
            except UnusableBundle as error:
                unusable.append(str(error))
    return found, unusable


def last_version(layout: Layout, name: str) -> Version | None:
    """The version of a name that is in use, else its newest, None where there is none."""
    home = layout.bundle(name)
    for folder in (followed(home / LATEST), *reversed(version_folders(home))):
        with suppress(UnusableBundle):
            return Version(folder, read_config(folder))
    return None


def prune(layout: Layout, keep: int) -> list[Path]:
    """Remove all but the newest `keep` versions of each name, and none in use; returns what was removed.

    Raises OSError, and ValueError for a number below 1.
    """
    if keep < 1:
        raise ValueError(f"KEEP (--keep): expected at least 1, got {keep}")
    removed = []
    for name in bundle_names(layout):
        used = {in_use(layout), followed(layout.bundle(name) / LATEST)}
        for folder in version_folders(layout.bundle(name))[:-keep]:
            if folder not in used:
                shutil.rmtree(folder)
                removed.append(folder)
    return removed


def take_over(layout: Layout, name: str, say: Callable[[str], None] = lambda _: None) -> None:
    """Make the bundle in bundles/<name>, as there was one per name before there were versions, the first version of its name.

    A kill between its two renames is mended by the next call. Raises OSError.
    """
    home = layout.bundle(name)
    moving = home.with_name(f".{name}.versions")
    if (home / CONFIG).is_file():
        try:
            version = _folder_name(read_config(home))
        except UnusableBundle:
            version = "unreadable"  # kept, and in nobody's way
        moving.mkdir(exist_ok=True)
        home.rename(moving / version)
    if moving.is_dir() and not home.exists():
        moving.rename(home)
        say(f"{home}: one bundle per name until now; it is the version {version_folders(home)[0].name}")
    if home.is_dir() and os.path.islink(layout.bundles / LATEST) and os.readlink(layout.bundles / LATEST) == name:
        use(layout, version_folders(home)[0])


def flat_names(layout: Layout) -> list[str]:
    """The names whose bundle is from before there were versions, or whose move into a version was interrupted."""
    moving = [path.name[1:].removesuffix(".versions") for path in layout.bundles.glob(".*.versions")]
    return sorted({*moving, *(name for name in bundle_names(layout) if (layout.bundle(name) / CONFIG).is_file())})


def _folder_name(config: dict[str, Any], after: datetime | None = None) -> str:
    """20261130-061500-3f9c01: the UTC date, and the beginning of the version's hash.

    after: the newest version's date, which is passed by a second where both are made in one, or the clock was set back: names
    sort by age.
    """
    date = datetime.fromisoformat(config["created"]).replace(tzinfo=None)
    if after is not None and date <= after:
        date = after + timedelta(seconds=1)
    return f"{date:{_DATE}}-{config['version'][:6]}"


def _date_of(folder: Path) -> datetime | None:
    """The date in a version's name, None in another name."""
    with suppress(ValueError):
        return datetime.strptime(folder.name.rpartition("-")[0], _DATE)
    return None


def _link(link: Path, target: Path) -> None:
    """Point the relative link to `target`, atomically."""
    staging = link.with_name(f".{link.name}.{uuid.uuid4().hex}.tmp")
    staging.symlink_to(target)
    os.replace(staging, link)
