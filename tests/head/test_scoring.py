"""`score` gives every meme with vectors the probability that tuning and serving give it."""

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import planted_features, write_features
from quick import quick_tuning

from cache import DatasetIndex, followed, read_index, write_index
from head import __main__ as command
from head import scoring
from head.bundle.format import load_bundle

USUAL = ["--data=data", "--model=fake"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Artifacts with a bundle, whose index has a meme without vectors and one without a label."""
    folder = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        quick_tuning(patch)
        index = write_features(
            folder, planted_features(120, splits=("train", "train", "validation", "test"), dims=(6, 6))
        )
        tune = ["tune", *USUAL, f"--artifacts={folder}", "--trials=1", "--folds=2", "--jobs=1", "--review=0.2"]
        assert command.main(tune) == 0
    kept = read_index(index)
    labels, skipped = [-1, *list(kept.labels)[1:]], ["", "cannot be decoded", *list(kept.skipped)[2:]]
    write_index(index, DatasetIndex(**{**vars(kept), "labels": labels, "skipped": skipped}))
    return folder


@pytest.mark.parametrize(("ending", "block"), [("csv", 7), ("parquet", 1 << 18)])
def test_every_meme_with_vectors_is_scored(
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ending: str,
    block: int,
) -> None:
    monkeypatch.setattr(scoring, "_BLOCK", block)
    out = tmp_path / f"scores.{ending}"
    assert (
        command.main(
            ["score", *USUAL, f"--artifacts={artifacts}", f"--bundle={artifacts}/bundles/latest", f"--out={out}"]
        )
        == 0
    )
    rows = list(csv.DictReader(out.read_text().splitlines())) if ending == "csv" else pq.read_table(out).to_pylist()
    assert len(rows) == 119 and "119 memes, 1 without vectors left out" in capsys.readouterr().out
    bundle = load_bundle(followed(artifacts / "bundles" / "latest"))
    memes = planted_features(120, splits=("train", "train", "validation", "test"), dims=(6, 6))
    expected = dict(zip(memes.ids.tolist(), bundle.calibration(bundle.shipped.score(memes))))
    assert np.allclose([float(row["probability"]) for row in rows], [expected[row["id"]] for row in rows], atol=1e-6)
    assert rows[0]["label"] == "" and {row["label"] for row in rows[1:]} == {"offensive", "non-offensive"}
    band, threshold = bundle.config["review"], bundle.config["threshold"]
    for row in rows:
        chance = float(row["probability"])
        within = band["low"] <= chance < band["high"]
        assert row["decision"] == ("review" if within else "offensive" if chance >= threshold else "non-offensive")


def test_vectors_of_another_encoder_and_other_files_are_refused(
    artifacts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score = ["score", *USUAL, f"--artifacts={artifacts}", f"--bundle={artifacts}/bundles/latest"]
    assert command.main([*score, f"--out={tmp_path}/scores.xlsx"]) == 2
    assert "expected a name that ends in .csv or .parquet" in capsys.readouterr().err
    (index,) = (artifacts / "datasets").glob("*.h5")
    kept = read_index(index)
    other = tmp_path / "other.h5"
    write_index(other, DatasetIndex(**{**vars(kept), "spec": {**kept.spec, "weights": "others"}}))
    assert command.main([*score[:1], f"--data={other}", *score[3:]]) == 2
    assert "weights" in capsys.readouterr().err
