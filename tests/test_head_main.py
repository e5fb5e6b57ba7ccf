import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fakes import interrupted

from cache import DatasetIndex, Segment, VectorStore, content_key, index_path, read_index, text_key, write_index
from head import __main__ as command
from head import tune as tuning
from head.bundle import load_bundle, read_predictions
from head.evaluate import verdict
from head.train import train_head

SPEC = {"model": "<script>alert(1)</script>", "dim": 8}
SOURCE = {"data": "data & <b>more</b>", "model": "fake", "pretrained": ""}


@pytest.fixture(autouse=True)
def small_heads(monkeypatch):
    """Narrow heads: the tests are about the search, not about what it finds."""
    monkeypatch.setattr(tuning, "_WIDTHS", (8, 16))


def fill(artifacts: Path, splits: list[str], test_label: int | None = None, signal: float = 1.0) -> Path:
    """An index and a store as the embedding job leaves them; returns the index. test_label: of every test meme."""
    rng, n = np.random.default_rng(0), len(splits)
    label = np.arange(n) % 2
    vectors = rng.normal(size=(2, n, 8)).astype(np.float32)
    vectors[:, :, 0] += signal * (2 * label - 1)
    keys = ([content_key(b"%d" % i) for i in range(n)], [text_key(f"text {i}") for i in range(n)])
    store = VectorStore(artifacts / "vectors", SPEC)
    for kind, names, rows in zip(("image", "text"), keys, vectors):
        store.add(kind, Segment(names, rows, np.zeros(n, np.int32)))
    if test_label is not None:
        label = np.where(np.array(splits) == "test", test_label, label)
    skipped = ["cannot be decoded"] + [""] * (n - 1)
    index = DatasetIndex(
        [f"m{i}" for i in range(n)], splits, label.tolist(), ["x.png"] * n, [f"text {i}" for i in range(n)], *keys,
        skipped, [3] * n, [0] * n, [""] * n, SPEC, SOURCE,
    )  # fmt: skip
    path = index_path(artifacts, "data", "fake", "")
    write_index(path, index)
    return path


def run(artifacts: Path, *more: str) -> int:
    return command.main(["tune", "--data=data", "--model=fake", f"--artifacts={artifacts}", "--trials=2", *more])


SPLITS = ["train"] * 60 + ["validation"] * 30 + ["test"] * 40


def test_tune_and_report_from_end_to_end(tmp_path, capsys):
    index = fill(tmp_path, SPLITS)
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "bundles" / index.stem
    assert "train       59 memes: 30 offensive, 29 non-offensive" in out
    assert "left out    1 without vectors, 0 without a label" in out
    assert len(re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", out)) >= 4 * 5 + 2
    assert str(folder / "report.html") in out and "best of 2 trials" in out
    assert (tmp_path / "bundles" / "latest").readlink() == Path(index.stem)
    config = load_bundle(tmp_path / "bundles" / "latest").config
    assert config["spec"] == SPEC and config["encoder"] == {"model": "fake", "pretrained": ""}
    assert config["metrics"]["split"] == "test" and config["study"]["trials"] == 2
    assert config["threshold"] == config["metrics"]["methods"]["fusion head"]["threshold"]
    predictions = read_predictions(folder)["test"]
    assert predictions["ids"] == [f"m{i}" for i in range(90, 130)] and len(predictions["probability"]) == 5

    (folder / "report.html").unlink()
    (tmp_path / "vectors").rename(tmp_path / "gone")  # a report never needs the data again
    assert command.main(["report", str(tmp_path / "bundles" / "latest")]) == 0
    assert (folder / "report.html").is_file()


def test_the_report_stands_alone_and_escapes_what_it_shows(tmp_path):
    index = fill(tmp_path, SPLITS)
    assert run(tmp_path) == 0
    page = (tmp_path / "bundles" / index.stem / "report.html").read_text("utf-8")
    assert "<script" not in page and "<b>more" not in page and "&lt;script&gt;alert(1)" in page
    links: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: links.extend(v for n, v in attrs if n in ("src", "href"))
    parser.feed(page)
    assert len(links) == 3 and all(link.startswith("data:image/svg+xml;base64,") for link in links)
    assert "url(" not in page and "@import" not in page


def test_without_test_the_figures_are_called_optimistic(tmp_path, capsys):
    fill(tmp_path, ["train"] * 60 + ["validation"] * 30)
    assert run(tmp_path) == 0
    out = capsys.readouterr().out
    assert "On validation" in out and "these figures are optimistic" in out


def test_vectors_without_signal_are_called_no_better_than_guessing(tmp_path, capsys):
    fill(tmp_path, SPLITS, signal=0.0)
    assert run(tmp_path) == 0
    assert "contains 0.5: no better than guessing here" in capsys.readouterr().out


def test_labels_of_test_cannot_change_weights_threshold_or_settings(tmp_path, capsys):
    bundles = []
    for name, label in (("a", None), ("b", 1), ("c", 0)):
        index = fill(tmp_path / name, SPLITS, test_label=label)
        assert run(tmp_path / name) == 0
        folder = tmp_path / name / "bundles" / index.stem
        bundles.append(((folder / "head.safetensors").read_bytes(), load_bundle(folder).config))
    (first, config), *others = bundles
    for weights, other in others:
        assert weights == first
        assert all(other[part] == config[part] for part in ("threshold", "head", "train", "study", "version"))
        assert other["metrics"]["methods"]["fusion head"]["auroc"] == {"point": None, "interval": None}
    assert "n/a" in capsys.readouterr().out


def test_the_same_command_again_trains_no_trial_and_gives_the_same_version(tmp_path, monkeypatch):
    index = fill(tmp_path, ["train"] * 100)  # splits are carved by the seed
    folder = tmp_path / "bundles" / index.stem
    assert run(tmp_path) == 0
    version = load_bundle(folder).config["version"]
    monkeypatch.setattr(tuning, "train_head", lambda *_: pytest.fail("the total was reached"))
    assert run(tmp_path) == 0
    assert load_bundle(folder).config["version"] == version


def test_ctrl_c_exits_130_says_how_to_go_on_and_goes_on(tmp_path, monkeypatch, capsys):
    fill(tmp_path, SPLITS)
    stopped, calls = interrupted(train_head, at=2)
    monkeypatch.setattr(tuning, "train_head", stopped)
    assert run(tmp_path) == 130
    assert "1 of 2 trials are kept" in capsys.readouterr().err
    assert not (tmp_path / "bundles").exists()
    assert run(tmp_path) == 0 and len(calls) == 3


def _relabel(artifacts: Path, index: Path) -> None:
    old = read_index(index)
    write_index(index, DatasetIndex(**{**vars(old), "labels": list(reversed(old.labels))}))


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        (lambda artifacts, index: index.unlink(), (), "no such dataset index"),
        (lambda artifacts, index: (artifacts / "vectors").rename(artifacts / "gone"), (), "vectors are not there"),
        (lambda artifacts, index: None, ("--trials=0",), "trials: expected at least 1"),
        (_relabel, ("--study=mine",), "another name with --study"),
    ],
)
def test_what_the_user_can_put_right_is_one_sentence_and_exit_2(tmp_path, capsys, change, more, message):
    index = fill(tmp_path, SPLITS)
    assert run(tmp_path, "--trials=1", "--study=mine") == 0
    change(tmp_path, index)
    capsys.readouterr()
    assert run(tmp_path, *more) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and said.err.count("\n") == 1


def test_changed_data_begin_a_study_of_their_own(tmp_path, capsys):
    index = fill(tmp_path, SPLITS)
    studies = set()
    for _ in range(2):
        assert run(tmp_path, "--trials=1") == 0
        studies.add(load_bundle(tmp_path / "bundles" / "latest").config["study"]["name"])
        _relabel(tmp_path, index)
    assert len(studies) == 2


def test_a_report_of_no_bundle_is_exit_2(tmp_path, capsys):
    assert command.main(["report", str(tmp_path)]) == 2
    assert "config.json: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ours", "difference", "words"),
    [
        ([0.8, [0.7, 0.9]], [0.1, [0.02, 0.2]], "better than logistic regression"),
        ([0.8, [0.7, 0.9]], [0.0, [-0.1, 0.1]], "not distinguishable from logistic regression"),
        ([0.7, [0.6, 0.8]], [-0.1, [-0.2, -0.02]], "worse than logistic regression"),
        ([0.55, [0.45, 0.65]], [0.1, [0.02, 0.2]], "no better than guessing"),
        ([0.3, [0.2, 0.4]], [0.1, [0.02, 0.2]], "worse than guessing"),
        ([None, None], [None, None], "AUROC is undefined"),
    ],
)
def test_the_verdict_says_what_the_intervals_say(ours, difference, words):
    assert words in verdict(figures("test", ours, difference))


def test_validation_cannot_show_that_the_head_it_chose_is_better_than_guessing():
    said = verdict(figures("validation", [0.8, [0.7, 0.9]], [0.1, [0.02, 0.2]]))
    assert "cannot be told" in said and "The head is better" not in said and "optimistic" in said


def figures(split, ours, difference):
    def figure(values):
        return {"point": values[0], "interval": values[1]}

    methods = {"fusion head": {"auroc": figure(ours)}, "logistic regression, both": {"auroc": figure(ours)}}
    return {"split": split, "methods": methods, "auroc_difference": figure(difference)}
