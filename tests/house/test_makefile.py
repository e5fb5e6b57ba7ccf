"""make's command line: what a target takes, and that values reach the programs as they were typed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EVERYDAY = {"HOST": "x86_64-conda-linux-gnu", "PORT": "tcp://10.0.0.1:80", "DATA": "d", "IMAGES": "i", "MODEL": "m"}
EVERYDAY |= {"DEVICE": "d", "BUNDLE": "b", "ENGINE": "ray", "OCR": "x", "COLUMNS": "80", "IMAGE": "i", "SEED": "x"}
# Takes the place of Python in the virtual environment: writes its arguments, each ended by a NUL.
RECORDER = '#!/bin/sh\nprintf "%s\\0" "$@" > "$RECORD"\n'

pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="no make: apt-get install make")


def outside_make() -> dict[str, str]:
    """The environment without what `make test` itself leaves in it: a make inside another one says where it works."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}


class Make:
    """Runs make in the project's folder with a virtual environment that only records what is run."""

    def __init__(self, folder: Path) -> None:
        self.record = folder / "arguments"
        self.home = folder / "home"
        python = folder / "venv" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(RECORDER)
        python.chmod(0o755)
        for name in ("installed", "ray-installed"):
            (folder / "venv" / name).touch()
        self.venv = folder / "venv"

    def __call__(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.record.unlink(missing_ok=True)
        variables = {**outside_make(), "RECORD": str(self.record), "HOME": str(self.home), **environment}
        command = ["make", f"VENV={self.venv}", *words]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)

    def arguments(self, *words: str, **environment: str) -> list[str]:
        """The arguments of Python, without "-m"."""
        done = self(*words, **environment)
        assert done.returncode == 0, done.stderr
        return self.record.read_text("utf-8").split("\0")[1:-1]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return Make(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["embed", "MODLE=x"], "make embed takes no MODLE (did you mean MODEL?); it takes COLUMNS DATA "),
        (["tune", "data=x"], "make tune takes no data (did you mean DATA?)"),
        (["report", "DATA=x"], "make report takes no DATA; it takes ALARM BUNDLE MISS PREVALENCE."),
        (["lint", "DATA=x"], "make lint takes no DATA."),
        (["DATA=x"], "make help takes no DATA."),
        (["embed", "tune", "BUNDLE=x"], "make embed tune takes no BUNDLE"),
        (["embed", "it's=x"], "make embed takes no it's"),
        (["tune", "TARGET_RECALL=.9", "TARGET_PRECISION=.9"], "a threshold has one aim"),
        (["tune", "OBJECTIVE=f1", "TARGET_RECALL=.9"], "a threshold has one aim"),
        (["embed", "OCR=maybe"], "OCR=maybe: expected on or off"),
    ],
)
def test_unknown_and_contradictory_variables_are_refused_before_anything_runs(
    make: Make, words: list[str], said: str
) -> None:
    done = make(*words)
    assert done.returncode == 2 and not done.stdout and not make.record.exists()
    assert said in done.stderr and done.stderr.count("\n") == 1


def test_a_variable_that_one_of_the_targets_takes_is_none_of_the_others(make: Make) -> None:
    assert make.arguments("tune", "report", "TRIALS=3") == ["report"]


VALUES = [
    "a b",
    "a $b ${c} $(shell touch pwned) $$",
    "`c`",
    'say "d"',
    "it's",
    "a#b",
    "ä/日本",
    "a\nb",
    "*",
    "-x",
    "\\n",
    "a ",
]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_arrives_as_it_was_typed(make: Make, value: str) -> None:
    assert make.arguments("embed", f"DATA={value}", LC_ALL="C.UTF-8") == ["embed", f"--data={value}"]
    for target, room in (("audit", ["embed", "audit"]), ("data", ["embed", "data"])):
        assert make.arguments(target, f"DATA={value}") == [*room, "--", value]
    assert make.arguments("report", f"BUNDLE={value}", "MISS=3") == ["report", "--miss=3", "--", value]
    assert make.arguments("serve", f"BUNDLE={value}") == ["api", "serve", f"--bundle={value}"]
    assert not (ROOT / "pwned").exists()


def test_the_home_folder_is_put_in_at_the_start_only(make: Make) -> None:
    given = ["DATA=~/my memes", "MODEL=local-dir:~/clip", "IMAGES=a~/b", "PRETRAINED=~"]
    expected = {
        f"--data={make.home}/my memes",
        f"--model=local-dir:{make.home}/clip",
        "--images=a~/b",
        "--pretrained=~",
    }
    assert set(make.arguments("embed", *given)[1:]) == expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("data", ["embed", "data"]),
        ("audit", ["embed", "audit"]),
        ("embed", ["embed"]),
        ("tune", ["head", "tune"]),
        ("tune-nested", ["head", "nested"]),
        ("finetune", ["finetune"]),
        ("report", ["report"]),
        ("export", ["api", "export"]),
        ("serve", ["api", "serve"]),
        ("image-check", ["container"]),
        ("bench-embed", ["bench.embed"]),
    ],
)
def test_what_the_environment_holds_is_ignored(make: Make, target: str, expected: list[str]) -> None:
    assert make.arguments(target, **EVERYDAY) == expected
    assert make.arguments(target, "-e", **EVERYDAY) == expected


def test_switches_and_empty_values(make: Make) -> None:
    given = make.arguments("embed", "OCR=on", "PRETRAINED=", "OCR_LANG=latin", "LONG_TEXT=chunk")
    assert sorted(given[1:]) == ["--long-text=chunk", "--ocr", "--ocr-lang=latin"]
    assert make.arguments("embed", "OCR=off", "IMAGES=") == ["embed", "--images=", "--no-ocr"], "an empty value forgets"
    assert make.arguments("tune", "TARGET_RECALL=0.9", "TARGET_PRECISION=") == ["head", "tune", "--target-recall=0.9"]
    assert make.arguments("image-check", "TORCH_INDEX_URL=") == ["container", "--torch-index-url="]


@pytest.mark.parametrize(
    ("target", "command"),
    [
        ("embed", "embed"),
        ("audit", "embed audit"),
        ("tune", "head tune"),
        ("tune-nested", "head nested"),
        ("finetune", "finetune"),
        ("report", "report"),
        ("export", "api export"),
        ("serve", "api serve"),
    ],
)
def test_every_variable_is_a_flag_of_the_program(target: str, command: str) -> None:
    names = printed(f"$({target}.options)")
    helped = [sys.executable, "-m", *command.split(), "--help"]
    done = subprocess.run(helped, cwd=ROOT, capture_output=True, text=True, check=True)
    flags = set(re.findall(r"--[a-z-]+", done.stdout))
    assert names and {name for name in names if f"--{name.lower().replace('_', '-')}" not in flags} == set()


def test_every_variable_is_explained_somewhere() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    words = "\n".join(page.read_text("utf-8") for page in pages)
    names = set(printed("$(foreach list,$(filter %.options %.argument,$(.VARIABLES)),$($(list)))"))
    assert {"DATA", "BUNDLE", "TRIALS", "HOST"} <= names
    assert {name for name in names if f"{name}=" not in words and f"`{name}`" not in words} == set()


def printed(expression: str) -> list[str]:
    """The words that an expression of the Makefile expands to."""
    printing = ["--eval", f"print: ; @echo {expression}", "print"]
    done = subprocess.run(["make", *printing], cwd=ROOT, env=outside_make(), capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_help_lists_the_targets(make: Make) -> None:
    said = make("help").stdout
    assert "make embed " in said and "make bench-embed" not in said and "make bench-embed" in make("help-dev").stdout
