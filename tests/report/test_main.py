"""The commands: files, output and exit codes."""

import copy
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cache import NOTICE, demo
from head.bundle.format import UnusableBundle
from report import __main__ as command
from report import judged, judging
from tests.report.test_page import bundle, nested_of, write_bundle


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return bundle(trials=4)


@pytest.fixture(autouse=True)
def without_weights(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path]]:
    """Evaluated bundles of JSON files only; returns the arguments of `evaluate_bundle`."""
    asked: list[tuple[Path, Path]] = []

    def load(folder: Path) -> SimpleNamespace:
        if not (folder / "config.json").exists():
            raise UnusableBundle(f"{folder / 'config.json'}: cannot be read")
        return SimpleNamespace(config=json.loads((folder / "config.json").read_text("utf-8")))

    monkeypatch.setattr(judged, "load_bundle", load)
    monkeypatch.setattr(judging, "evaluate_bundle", lambda folder, artifacts, say: asked.append((folder, artifacts)))
    return asked


def test_report_writes_the_page_and_prints_table_verdict_and_path(
    tmp_path: Path, values: dict[str, Any], without_weights: list, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_bundle(tmp_path / "b", values)
    assert command.main([str(folder), "--artifacts", str(tmp_path / "a")]) == 0
    assert without_weights == [(folder, tmp_path / "a")]
    page = (folder / "report.html").read_text("utf-8")
    assert "The most confident mistakes" in page and "Nested cross-validation" not in page
    out = capsys.readouterr().out
    figures = values["metrics"]["methods"]["fusion ensemble"]["figures"]
    low, high = figures["auroc"]["interval"]
    line = next(line for line in out.splitlines() if line.startswith("* fusion ensemble"))
    assert f"{figures['accuracy']['point']:.3f}" in line
    assert f"{figures['auroc']['point']:.3f} [{low:.3f}, {high:.3f}]" in line
    assert all(f"\n  {name}" in out for name in values["metrics"]["methods"] if name != "fusion ensemble")
    assert out.rstrip().endswith(f"report  {folder / 'report.html'}")
    table = out[: out.index("\n\n")]
    assert max(map(len, table.splitlines())) <= 100


@pytest.mark.parametrize("fingerprint", ["ab" * 32, "cd" * 32])
def test_nested_cross_validation_is_shown_if_it_was_run_on_the_same_memes(
    tmp_path: Path, values: dict[str, Any], fingerprint: str
) -> None:
    folder = write_bundle(tmp_path / "b", values)
    place = tmp_path / "nested" / Path(values["config"]["data"]["index"]).stem / "nested.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({**nested_of(), "fingerprint": fingerprint}), encoding="utf-8")
    assert command.main([str(folder), "--artifacts", str(tmp_path)]) == 0
    same = fingerprint == values["config"]["data"]["fingerprint"]
    assert ("Nested cross-validation" in (folder / "report.html").read_text("utf-8")) == same


def test_compare_writes_into_the_first_bundle(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    other = copy.deepcopy(values)
    other["config"]["name"] = "../" * 40 + "é b"
    first, second = write_bundle(tmp_path / "one", values), write_bundle(tmp_path / "two", other)
    assert command.main(["compare", str(first), str(second)]) == 0
    out = capsys.readouterr().out
    path = Path(out.rsplit("page  ", 1)[1].strip())
    assert path.parent == first and re.fullmatch(r"compare-[._]+é_b\.html", path.name)
    assert "<title>" in path.read_text("utf-8") and "do not differ significantly" in out


def test_a_name_that_is_not_utf8_is_escaped(tmp_path: Path, values: dict[str, Any]) -> None:
    odd = copy.deepcopy(values)
    odd["gallery"]["mistakes"][0]["id"] = "caf\udce9.png"
    assert command.main([str(write_bundle(tmp_path, odd))]) == 0
    assert "caf\\udce9.png" in (tmp_path / "report.html").read_text("utf-8")


def broken(values: dict[str, Any], name: str, change: Any) -> dict[str, Any]:
    odd = copy.deepcopy(values)
    if change is None:
        odd[name] = None
    else:
        change(odd[name])
    return odd


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("config", None, "config.json: no such file"),
        ("metrics", None, "metrics.json: missing"),
        ("predictions", None, "predictions.json: missing"),
        ("predictions", lambda part: part.pop("test"), "damaged (KeyError('test'))"),
        ("config", lambda config: config.pop("aim"), "KeyError('aim')"),
        ("metrics", lambda metrics: metrics.pop("copies"), "'dict object' has no attribute 'copies'"),
        ("gallery", lambda gallery: gallery["mistakes"][0].pop("neighbours"), "KeyError('neighbours')"),
        ("config", lambda config: config["study"].update(history=[1]), "TypeError"),
    ],
)
def test_a_damaged_bundle_is_an_error_in_one_line(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str], name: str, change: Any, said: str
) -> None:
    write_bundle(tmp_path, broken(values, name, change))
    assert command.main([str(tmp_path)]) == 2
    *before, err = capsys.readouterr().err.splitlines()
    assert err.startswith("error: ") and said in err and len(before) <= 1
    assert not (tmp_path / "report.html").exists()


def test_compare_refuses_a_bundle_without_metrics(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = write_bundle(tmp_path / "one", values)
    second = write_bundle(tmp_path / "two", {**values, "metrics": None})
    assert command.main(["compare", str(first), str(second)]) == 2
    assert f"run `python -m report {second}` first" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["a", "b"], ["--nonsense"], ["compare"], ["compare", "a"], ["compare", "a", "b", "c"]]
)
def test_bad_arguments_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(words)
    err = capsys.readouterr().err
    assert stopped.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "--help" in err


def test_threads_are_limited(tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    monkeypatch.setattr(command, "limit_threads", lambda: called.append(True))
    assert command.main([str(write_bundle(tmp_path, values))]) == 0 and called


def test_ctrl_c_exits_with_130(
    tmp_path: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(judging, "evaluate_bundle", interrupted)
    assert command.main([str(write_bundle(tmp_path, {**values, "metrics": None}))]) == 130
    assert capsys.readouterr().err.endswith("\nstopped\n")


def test_the_demos_encoder_is_named_on_the_screen_and_on_the_pages(
    tmp_path: Path, values: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    plain, warned = write_bundle(tmp_path / "a", values), copy.deepcopy(values)
    warned["config"]["spec"]["weights_sha256"] = demo._WEIGHTS
    shown = write_bundle(tmp_path / "b", warned)
    for folder, notices in ((plain, 0), (shown, 1)):
        assert command.main([str(folder), "--artifacts", str(tmp_path / "artifacts")]) == 0
        assert capsys.readouterr().out.count(f"\n\n{NOTICE}\n\nreport ") == notices
        page = (folder / "report.html").read_text("utf-8")
        assert page.count(f'<p class="verdict warning" role="note">{NOTICE}</p>') == notices
    assert command.main(["compare", str(plain), str(shown)]) == 0
    assert f"\n\n{NOTICE}\n\npage " in capsys.readouterr().out
    assert f"B: {NOTICE}</p>" in next(plain.glob("compare-*.html")).read_text("utf-8")
