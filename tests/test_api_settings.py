"""Flags, environment variables and fields of the server carry the same names."""

from dataclasses import fields
from pathlib import Path

import pytest

import api.__main__
from api.__main__ import main
from api.server import ServeSettings


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """The settings that `serve` was called with."""
    calls: list[ServeSettings] = []
    monkeypatch.setattr(api.__main__, "serve", lambda settings, say: calls.append(settings))
    return calls


VALUES = {
    "bundle": Path("b"),
    "model": "m",
    "pretrained": "p",
    "device": "cpu",
    "host": "0.0.0.0",
    "port": 9,
    "threads": 3,
}


def test_the_table_of_values_here_is_whole() -> None:
    assert {field.name for field in fields(ServeSettings)} == VALUES.keys()


@pytest.mark.parametrize("name", VALUES)
def test_each_field_is_a_flag_and_a_variable(
    name: str, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["serve", f"--{name}", str(VALUES[name])]) == 0
    monkeypatch.setenv(f"API_{name.upper()}", str(VALUES[name]))
    assert main(["serve"]) == 0
    assert [getattr(settings, name) for settings in served] == [VALUES[name]] * 2
    monkeypatch.setenv(f"API_{name.upper()}", "1")
    assert main(["serve", f"--{name}", str(VALUES[name])]) == 0
    assert getattr(served[-1], name) == VALUES[name], "a flag wins over the environment"


@pytest.mark.parametrize("bad", ["--port=99999", "--port=-1", "--threads=0", "--device=tpu"])
def test_what_cannot_be_served_is_a_sentence(
    bad: str, served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", bad]) == 2 and not served
    assert "expected" in capsys.readouterr().err


def test_a_bad_value_in_the_environment_is_refused(
    served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("API_PORT", "eighty")
    with pytest.raises(SystemExit, match="2"):
        main(["serve"])
    assert "invalid int value: 'eighty'" in capsys.readouterr().err and not served
