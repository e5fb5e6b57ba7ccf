"""A bundle is found by its path, and by its name."""

from pathlib import Path

import pytest

from cache import NoBundle, find_bundle


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
