"""Commands at their edge: sentences, exit codes, Ctrl-C, ASCII terminals, closed pipes, a full disk."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine import PATIENCE

from cache import exit_codes, printable

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "optuna", "sklearn", "matplotlib", "open_clip", "flask"}
# Runs a main under run_as_command as a room does.
_COMMAND = """
import os, signal, sys
from cache.edge import Parser, exit_codes, run_as_command, stop_quietly
stop_quietly()
{before}
@exit_codes("stopped")
def main(arguments):
    {body}
    return 0
run_as_command(main)
"""


def execute(body: str, before: str = "", **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", _COMMAND.format(body=body, before=before)]
    variables = {**os.environ, **environment}
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(
    ("room", "arguments"),
    [
        ("cache", ["verify", "--nonsense"]),
        ("embed", ["--device", "tpu"]),
        ("embed", ["audit", "--nonsense"]),
        ("embed", ["data", "a", "b"]),
        ("embed", ["--data", "no-such-folder"]),
        ("head", ["tune", "--target-recall=.9", "--target-precision=.9"]),
        ("head", ["tune", "--trials=0"]),
        ("head", ["tune", "--folds=1"]),
        ("head", ["tune", "--storage=postgresql://u:hunter2@ss@host/d"]),
        ("head", ["tune", "--artifacts=nowhere"]),
        ("report", ["--miss=0"]),
        ("report", ["nowhere"]),
        ("report", ["compare", "nowhere", "nowhere"]),
        ("finetune", ["--towers=none"]),
        ("finetune", ["--bundle=nowhere"]),
        ("api", ["serve", "--port=99999"]),
        ("api", ["serve", "--bundle=nowhere"]),
        ("api", ["predict"]),
        ("demo", ["--nonsense"]),
        ("container", ["--nonsense"]),
    ],
)
def test_bad_arguments_are_one_sentence_before_anything_heavy_is_imported(room: str, arguments: list[str]) -> None:
    code = f"import sys, runpy, atexit; atexit.register(lambda: print(*sorted({HEAVY} & sys.modules.keys())))\n"
    code += f"sys.argv[1:] = {arguments}; runpy.run_module({room!r}, run_name='__main__')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = done.stderr.splitlines()
    # the server leaves without the interpreter's shutdown, so it says nothing about its modules
    assert done.returncode == 2 and done.stdout.split() == [], (done.stdout, done.stderr)
    assert len(said) == 1 and said[0].startswith("error: ") and "hunter2" not in said[0], done.stderr


def test_the_server_refuses_before_it_imports_torch() -> None:
    code = (
        "import sys; from api.__main__ import main; print(main(['serve', '--bundle=nowhere']), 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == "2 False\n"


@pytest.mark.parametrize("error", [ValueError("a: expected b"), OSError(2, "No such file", "a")])
def test_errors_of_the_user_and_of_the_system_become_2(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    @exit_codes()
    def main(_: list[str] | None) -> int:
        raise error

    assert main([]) == 2 and capsys.readouterr().err == f"error: {error}\n"


@pytest.mark.parametrize(
    ("before", "body"),
    [("os.kill(os.getpid(), signal.SIGINT)", "pass"), ("", "os.kill(os.getpid(), signal.SIGINT)")],
    ids=["while importing", "at work"],
)
def test_ctrl_c_leaves_no_traceback(before: str, body: str) -> None:
    done = execute(body, before)
    assert done.returncode == 130 and done.stderr in (b"", b"stopped\n")


def test_ctrl_c_is_answered_quietly_by_the_time_a_room_imports_its_libraries() -> None:
    code = "import sys, builtins, runpy, os, signal\n"
    code += "usual = builtins.__import__\n"
    code += "def imported(name, *rest, **more):\n"
    code += "    if name == 'numpy': os.kill(os.getpid(), signal.SIGINT)\n"
    code += "    return usual(name, *rest, **more)\n"
    code += "builtins.__import__ = imported; sys.argv[1:] = ['--help']\n"
    for room in ("cache", "embed", "head"):
        command = [sys.executable, "-c", f"{code}runpy.run_module({room!r}, run_name='__main__')"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE, check=False)
        assert (done.returncode, done.stderr) == (130, b""), room


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_without_unicode_gets_replacement_characters(environment: dict[str, str]) -> None:
    done = execute(r"print('caf\u00e9', 'bad \udcff name'); print('\u2713', file=sys.stderr)", **environment)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    assert done.stdout.decode().startswith("caf") and b"bad ? name" in done.stdout


@pytest.mark.parametrize("where", ["sys.stdout", "sys.stderr"])
def test_a_closed_pipe_is_silent(where: str) -> None:
    # more than a pipe holds
    code = _COMMAND.format(before="", body=f"for _ in range(100_000): print('a line', file={where})")
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=pipe, stderr=pipe) as process:
        closed, other = (process.stdout, process.stderr) if where == "sys.stdout" else (process.stderr, process.stdout)
        assert closed and other and closed.readline() == b"a line\n"
        closed.close()
        assert other.read() == b"" and process.wait(PATIENCE) == 141


def test_a_broken_pipe_of_another_kind_is_an_error() -> None:
    done = execute("raise BrokenPipeError(32, 'Broken pipe')")
    assert done.returncode == 2 and done.stderr == b"error: [Errno 32] Broken pipe\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full: Linux has one")
def test_output_that_cannot_be_written_is_a_sentence() -> None:
    code = _COMMAND.format(before="", body="print('a line')")
    variables = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=variables, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2 and done.stderr == b"error: standard output: No space left on device\n"


def test_control_characters_are_escaped() -> None:
    assert printable("a b/caf\u00e9") == "a b/caf\u00e9" and printable("a\x1b[2J\nb") == "a\\x1b[2J\\nb"
