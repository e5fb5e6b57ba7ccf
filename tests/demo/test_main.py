"""The demo command: help and unknown arguments run nothing."""

import subprocess
from typing import Any

import pytest

from demo.__main__ import main


@pytest.mark.parametrize(("arguments", "code"), [(["--help"], 0), (["--quick"], 2), (["embed"], 2)])
def test_help_and_unknown_arguments_run_nothing(
    arguments: list[str], code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a step was started")

    monkeypatch.setattr(subprocess, "run", started)
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert "usage: python -m demo" in (printed.out if code == 0 else printed.err)
