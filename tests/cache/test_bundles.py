"""A bundle is found by its path, and by its name."""

from pathlib import Path

import pytest

from cache import Layout, NoBundle, bundle_names, find_bundle, version_folders


def bundle(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    return folder


@pytest.mark.parametrize("name", ["my bundle", "100 % $HOME", "latest"])
def test_a_path_and_a_bare_name_find_a_bundle(tmp_path: Path, name: str) -> None:
    elsewhere, named = bundle(tmp_path / "elsewhere" / name), bundle(tmp_path / "artifacts" / "bundles" / name)
    assert find_bundle(elsewhere, tmp_path / "artifacts") == elsewhere
    assert find_bundle(Path(name), tmp_path / "artifacts") == named


def test_what_is_no_bundle_is_refused_with_those_that_exist(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoBundle, match=r"empty/config.json: no such file; `make tune` writes"):
        find_bundle(tmp_path / "empty", tmp_path)
    bundle(tmp_path / "bundles" / "b"), bundle(tmp_path / "bundles" / "a")
    with pytest.raises(NoBundle, match="existing bundles: a, b$"):
        find_bundle(Path("c"), tmp_path)


def test_of_a_name_the_version_in_use_is_found_and_every_version_by_its_own(tmp_path: Path) -> None:
    home = tmp_path / "bundles" / "memes"
    old, new = bundle(home / "20260101-000000-aaaaaa"), bundle(home / "20260201-000000-bbbbbb")
    bundle(home / ".20260301-000000-cccccc.tmp")  # a kill left it
    assert find_bundle(Path("memes"), tmp_path) == new  # nothing says which is in use
    (home / "latest").symlink_to(old.name)
    (home.parent / "latest").symlink_to(f"memes/{old.name}")
    for given in (Path("memes"), home, home / "latest", home.parent / "latest", Path(f"memes/{old.name}"), old):
        assert find_bundle(given, tmp_path) == old
    assert version_folders(home) == [old, new] and bundle_names(Layout(tmp_path)) == ["memes"]
