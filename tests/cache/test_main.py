"""The commands: results on stdout, notes on stderr, exit codes, and a sentence instead of a traceback."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cache.__main__
from cache.__main__ import main
from cache.contents import open_store, store_folders

ROOT = Path(__file__).parents[2]


@pytest.fixture
def artifacts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """Results with one imported data set in two segments."""
    rows = np.eye(4, dtype=np.float32)
    split = np.array(["train", "train", "validation", "test"])
    np.savez(tmp_path / "v.npz", ids=np.arange(4), image=rows, text=2 * rows, label=[1, 0, 1, 0], split=split)
    assert main(["import", str(tmp_path / "v.npz"), "memes", "--artifacts", str(tmp_path)]) == 0
    assert f"make tune DATA={tmp_path}/datasets/memes.h5" in capsys.readouterr().out
    return tmp_path


def damage(artifacts: Path) -> Path:
    path = next(artifacts.glob("vectors/*/image-*.h5"))
    path.write_bytes(path.read_bytes()[:-1])
    return path


def test_verify_answers_0_for_a_whole_cache_and_1_for_damage(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--artifacts", str(artifacts)]) == 0
    assert "1 stores, 2 segments" in capsys.readouterr().out
    hurt = damage(artifacts)
    assert main(["verify", "--artifacts", str(artifacts)]) == 1
    said = capsys.readouterr()
    assert str(hurt) in said.out and f"python -m cache import {artifacts / 'v.npz'} NAME" in said.out


def test_stats_are_a_table_and_json(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stats", "--artifacts", str(artifacts)]) == 0
    table = capsys.readouterr().out.splitlines()
    assert table[0].split()[:5] == ["spec_id", "model", "feature", "dtype", "images"] and "imported" in table[1]
    assert table[3].split()[0] == "memes.h5" and "2 train, 1 validation, 1 test" in table[3]
    assert main(["stats", "--json", "--artifacts", str(artifacts)]) == 0
    assert json.loads(capsys.readouterr().out)["stores"][0]["images"] == 4


def test_compact_names_what_it_leaves_alone(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", "--artifacts", str(artifacts)]) == 0
    assert "2 segments before, 2 now" in capsys.readouterr().out
    hurt = damage(artifacts)
    assert main(["compact", "--artifacts", str(artifacts)]) == 0
    assert hurt.name in capsys.readouterr().err
    (hurt.parent / "spec.json").write_text("{")
    assert main(["compact", "--artifacts", str(artifacts)]) == 0
    assert "spec.json" in capsys.readouterr().err


def test_an_export_comes_back(artifacts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, index = artifacts / "o.parquet", artifacts / "datasets" / "memes.h5"
    assert main(["export", str(index), str(out), "--artifacts", str(artifacts)]) == 0
    assert "4 rows" in capsys.readouterr().out
    assert main(["import", str(out), "again", "--artifacts", str(artifacts)]) == 0
    assert len(store_folders(artifacts)) == 1 and len(open_store(store_folders(artifacts)[0]).known("text")) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["verify", "--artifacts", "nowhere"], "nowhere"),
        (["stats", "--artifacts", "nowhere"], "make embed"),
        (["export", "nowhere.h5", "o.npz"], "nowhere.h5: no such dataset index"),
        (["export", "no/memes", "o.npz"], "make embed"),
        (["import", "nowhere.npz", "a"], "nowhere.npz"),
        (["import", "memes.csv", "a"], "memes.csv: expected a name that ends in .npz or .parquet"),
    ],
)
def test_user_errors_are_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and words in said.err and said.err.count("\n") == 1 and not said.out
    assert not list(tmp_path.iterdir())


def test_ctrl_c_answers_130(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(_: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache.__main__, "verify", stopped)
    assert main(["verify", "--artifacts", str(artifacts)]) == 130
    assert capsys.readouterr().err.endswith("stopped; finished work is kept\n")


def test_neither_torch_nor_a_needless_pyarrow_is_imported() -> None:
    code = "import sys, {0}; print(*sorted({{'torch', 'pyarrow', 'sklearn', 'optuna'}} & sys.modules.keys()))"
    found = [
        subprocess.run([sys.executable, "-c", code.format(name)], cwd=ROOT, capture_output=True, text=True, check=True)
        for name in ("cache", "cache.__main__")
    ]
    assert [done.stdout.split() for done in found] == [[], ["pyarrow"]]
