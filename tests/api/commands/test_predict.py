"""The commands that judge pictures say so where the demo's encoder judges others than the demo's."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from api_fakes import FakeClassifier, make_predictor
from fakes import picture

from api.commands import predict, predict_folder
from api.settings import ServeSettings
from cache import NOTICE, demo

SETTINGS = ServeSettings(ocr="off")


@pytest.fixture(autouse=True)
def demo_encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A loaded bundle of the demo itself."""
    classifier = FakeClassifier()
    classifier.config |= {"spec": {"weights_sha256": demo._WEIGHTS}, "data": {"content": demo._CONTENT}}
    with closing(make_predictor(classifier)) as predictor:
        for command in (predict, predict_folder):
            monkeypatch.setattr(command, "load_model", lambda *_: SimpleNamespace(predictor=predictor))
        yield


def test_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.png").write_bytes(picture())
    assert '"label"' in predict.predict(tmp_path / "mine.png", "words", explain=False, settings=SETTINGS)
    assert capsys.readouterr().err == f"{NOTICE}\n"
    of_the_demo = next(Path("demo/memes/Labelled Images").glob("*.png"))
    assert '"label"' in predict.predict(of_the_demo, "words", explain=False, settings=SETTINGS)
    assert capsys.readouterr().err == ""


def test_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(picture())
    said: list[str] = []
    assert predict_folder.predict_folder(tmp_path / "mine", tmp_path / "p.csv", SETTINGS, said.append) == 0
    assert said == [NOTICE]
