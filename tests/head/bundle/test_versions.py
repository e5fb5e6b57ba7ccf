"""Versions are kept beside each other, put into use by links, pruned, and taken over from the layout with one bundle per name."""

from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from head_bundles import PREDICTIONS, SETTINGS, make, save_bundle

from cache import Layout, find_bundle, followed, version_folders
from head.bundle import versions as module
from head.bundle.format import load_bundle
from head.bundle.versions import (
    Version,
    flat_names,
    in_use,
    last_version,
    prune,
    save_version,
    take_over,
    use,
    versions,
)


def save(artifacts: Path, threshold: float, name: str = "memes") -> Version:
    settings: dict[str, Any] = {**SETTINGS, "name": name, "threshold": threshold}
    return save_version(Layout(artifacts), make(), settings, PREDICTIONS)


def test_versions_are_kept_and_one_of_them_is_in_use(tmp_path: Path) -> None:
    layout, first = Layout(tmp_path), save(tmp_path, 0.1)
    assert in_use(layout) is None and use(layout, first.folder) == first.title
    second = save(tmp_path, 0.2)
    assert in_use(layout) == first.folder and first.folder != second.folder
    assert use(layout, second.folder) == f"{second.title}, instead of {first.title}"
    assert in_use(layout) == second.folder == followed(tmp_path / "bundles" / "memes" / "latest")
    assert [load_bundle(one.folder).config["threshold"] for one in (first, second)] == [0.1, 0.2]
    use(layout, first.folder)
    last = last_version(layout, "memes")
    assert last is not None and last.folder == first.folder  # what is in use, not what is newest


def test_versions_of_one_second_and_of_a_clock_set_back_sort_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    for second, threshold in ((30, 0.1), (30, 0.2), (30, 0.3), (10, 0.4), (59, 0.5)):

        class Now(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None, at: int = second) -> datetime:
                return datetime(2026, 12, 31, 23, 59, at, tzinfo=tz)

        with monkeypatch.context() as patch:
            patch.setattr("head.bundle.format.datetime", Now)
            saved.append(save(tmp_path, threshold).folder)
    assert sorted(saved) == saved == version_folders(tmp_path / "bundles" / "memes")
    dates = ["20261231-235930", "20261231-235931", "20261231-235932", "20261231-235933", "20261231-235959"]
    assert [folder.name[:15] for folder in saved] == dates


def test_of_two_names_each_has_a_version_in_use_and_one_is_served(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    one, other = (save(tmp_path, 0.1, name) for name in ("one", "other"))
    for version in (one, other):
        use(layout, version.folder)
    assert in_use(layout) == other.folder and find_bundle(Path("one"), tmp_path) == one.folder
    assert {version.title for version in versions(layout)[0]} == {one.title, other.title}


def test_a_bundle_elsewhere_is_not_put_into_use(tmp_path: Path) -> None:
    save_bundle(tmp_path / "exports" / "memes" / "v", make(), SETTINGS, PREDICTIONS)
    with pytest.raises(ValueError, match="not a version under"):
        use(Layout(tmp_path), tmp_path / "exports" / "memes" / "v")


def test_the_newest_are_kept_and_those_in_use(tmp_path: Path) -> None:
    layout, saved = Layout(tmp_path), sorted((save(tmp_path, 0.1 + k / 10) for k in range(5)), key=lambda v: v.folder)
    use(layout, saved[0].folder)
    with pytest.raises(ValueError, match="KEEP .* at least 1, got 0"):
        prune(layout, 0)
    assert prune(layout, 2) == [version.folder for version in saved[1:3]]
    assert [version.folder for version in versions(layout)[0]] == [saved[k].folder for k in (0, 3, 4)]
    assert prune(layout, 2) == []


def test_a_damaged_version_is_named_beside_the_others(tmp_path: Path) -> None:
    good, bad = save(tmp_path, 0.1), save(tmp_path, 0.2)
    (bad.folder / "config.json").write_text("{")
    found, unusable = versions(Layout(tmp_path))
    assert [one.folder for one in found] == [good.folder] and str(bad.folder) in unusable[0]


@pytest.mark.parametrize("killed", [False, True])
def test_a_bundle_from_before_versions_is_taken_over(
    tmp_path: Path, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, said = Layout(tmp_path), list[str]()
    home = layout.bundle("memes")
    old = save_bundle(home, make(), SETTINGS, PREDICTIONS).config
    (home / "report.html").touch()
    (layout.bundles / "latest").symlink_to("memes")
    assert find_bundle(Path("memes"), tmp_path) == home and flat_names(layout) == ["memes"]
    if killed:
        rename = Path.rename

        def dies(self: Path, target: Path) -> Path:
            if self.name == ".memes.versions":
                raise KeyboardInterrupt
            return rename(self, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Path, "rename", dies)
            take_over(layout, "memes")
        assert flat_names(layout) == ["memes"] and not home.exists()
    take_over(layout, "memes", said.append)
    (version,) = versions(layout)[0]
    assert version.config == old and (version.folder / "report.html").exists() and flat_names(layout) == []
    assert in_use(layout) == version.folder and version.folder.name in said[0]
    take_over(layout, "memes", said.append)
    assert len(said) == 1


def test_a_damaged_bundle_from_before_versions_is_in_nobodys_way(tmp_path: Path) -> None:
    home = Layout(tmp_path).bundle("memes")
    home.mkdir(parents=True)
    (home / "config.json").write_text("{")
    saved = save(tmp_path, 0.2)
    assert [one.folder for one in versions(Layout(tmp_path))[0]] == [saved.folder] and (home / "unreadable").is_dir()


def test_a_new_version_takes_over_the_old_bundle_first(tmp_path: Path) -> None:
    save_bundle(Layout(tmp_path).bundle("memes"), make(), {**SETTINGS, "threshold": 0.9}, PREDICTIONS)
    save(tmp_path, 0.2)
    assert sorted(version.config["threshold"] for version in versions(Layout(tmp_path))[0]) == [0.2, 0.9]


def test_links_are_moved_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout, first, second = Layout(tmp_path), save(tmp_path, 0.1), save(tmp_path, 0.2)
    use(layout, first.folder)

    def dies(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(module.os, "replace", dies)
        use(layout, second.folder)
    assert in_use(layout) == first.folder
