"""A peer's environment is made once, made again when its pins change, and never taken for made when it failed."""

from pathlib import Path

import pytest

from bench import environment
from bench.environment import PeerUnavailable, install
from bench.machine import CommandFailed, Run


class Commands:
    """Stands in for `run`: notes each command, makes no environment, and fails where it is told to."""

    def __init__(self, packages: Path) -> None:
        self.packages, self.said, self.fails_at = packages, [], ""

    def __call__(self, command: list[str | Path], env: dict[str, str] | None = None) -> Run:
        words = [str(word) for word in command]
        self.said.append((words, env))
        if words[1:3] == ["-m", "venv"]:
            (Path(words[3]) / "bin").mkdir(parents=True)
        if self.fails_at and self.fails_at in words:
            raise CommandFailed("no such package")
        return Run(0.0, 0.0, f"{self.packages}\n")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    stand_in = Commands(tmp_path)
    monkeypatch.setattr(environment, "run", stand_in)
    return stand_in


def make(folder: Path, *pins: str, behind: Path | None = None) -> Path:
    return install("a peer", folder, pins, ["-m", "peer"], {"OFFLINE": "1"}, behind)


def test_it_is_made_once_and_again_when_its_pins_change(tmp_path: Path, commands: Commands) -> None:
    interpreter = make(tmp_path / "peer", "one==1")
    assert interpreter == tmp_path / "peer" / "bin" / "python"
    assert [words[-1] for words, _ in commands.said] == [str(tmp_path / "peer"), "one==1", "peer"]
    assert commands.said[-1] == ([str(interpreter), "-m", "peer"], {"OFFLINE": "1"})
    commands.said.clear()
    assert make(tmp_path / "peer", "one==1") == interpreter and not commands.said
    make(tmp_path / "peer", "one==2")
    assert [words[-1] for words, _ in commands.said] == [str(tmp_path / "peer"), "one==2", "peer"]


def test_packages_behind_its_own_are_named_in_a_pth_file(tmp_path: Path, commands: Commands) -> None:
    make(tmp_path / "peer", "one==1", behind=tmp_path / "ours")
    assert (tmp_path / "project.pth").read_text("utf-8") == f"{tmp_path / 'ours'}\n"
    commands.said.clear()
    make(tmp_path / "peer", "one==1", behind=tmp_path / "others")
    assert commands.said  # what stands behind it belongs to it


@pytest.mark.parametrize("step", ["venv", "pip", "peer"])
def test_what_failed_is_said_and_tried_again(step: str, tmp_path: Path, commands: Commands) -> None:
    commands.fails_at = step
    with pytest.raises(PeerUnavailable, match="a peer could not be installed: no such package"):
        make(tmp_path / "peer", "one==1")
    commands.fails_at = ""
    commands.said.clear()
    make(tmp_path / "peer", "one==1")
    assert len(commands.said) == 3
