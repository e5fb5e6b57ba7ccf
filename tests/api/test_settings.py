"""Flags, environment variables and fields of the server carry the same names."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from api_fakes import make_service

import api.server
from api.__main__ import main
from api.settings import ServeSettings

# What is not the default, and what it is on the command line.
VALUES: dict[str, tuple[Any, str]] = {
    "bundle": (Path("b"), "b"),
    "model": ("m", "m"),
    "pretrained": ("p", "p"),
    "artifacts": (Path("a"), "a"),
    "device": ("cpu", "cpu"),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": (9, "9"),
    "queue": (20, "20"),
    "batch": (3, "3"),
    "wait_ms": (0.5, "0.5"),
    "cache": (0, "0"),
    "ocr": ("off", "off"),
    "ocr_lang": ("korean", "korean"),
    "keys_file": ("keys", "keys"),
    "pid_file": ("pid", "pid"),
    "cors_origin": ("https://example.org", "https://example.org"),
    "log_content": (True, "true"),
}


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ServeSettings]:
    """The settings that `serve` was called with; there are a bundle "b" and one in the usual place."""
    monkeypatch.chdir(tmp_path)
    for folder in (Path("b"), ServeSettings().bundle):
        folder.mkdir(parents=True)
        (folder / "config.json").touch()
    calls: list[ServeSettings] = []
    monkeypatch.setattr(api.server, "serve", lambda settings, say: calls.append(settings))
    for field in fields(ServeSettings):
        monkeypatch.delenv(f"API_{field.name.upper()}", raising=False)
    return calls


def test_the_table_of_values_is_complete_and_has_no_defaults() -> None:
    assert {field.name for field in fields(ServeSettings)} == VALUES.keys()
    assert not [field.name for field in fields(ServeSettings) if field.default == VALUES[field.name][0]]


@pytest.mark.parametrize("name", VALUES)
def test_each_field_is_a_flag_and_a_variable(
    name: str, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    value, word = VALUES[name]
    flag, variable = f"--{name.replace('_', '-')}", f"API_{name.upper()}"
    default = getattr(ServeSettings(), name)
    assert main(["serve", flag, word]) == 0
    monkeypatch.setenv(variable, word)
    assert main(["serve"]) == 0
    assert [getattr(settings, name) for settings in served] == [value] * 2
    assert type(getattr(served[1], name)) is type(value)
    monkeypatch.setenv(variable, str(default).lower() if isinstance(default, bool) else str(default))
    assert main(["serve", flag, word]) == 0
    assert getattr(served[-1], name) == value, "a flag wins over the environment"


def test_defaults(served: list[ServeSettings]) -> None:
    assert main(["serve"]) == 0 and served == [ServeSettings()]


def test_the_defaults_are_local_and_private() -> None:
    assert ServeSettings().host == "127.0.0.1" and not ServeSettings().log_content and not ServeSettings().cors_origin


@pytest.mark.parametrize(
    ("bad", "sentence"),
    [
        ("--port=99999", "port: expected 0 to 65535, got 99999"),
        ("--port=-1", "port: expected 0 to 65535, got -1"),
        ("--queue=0", "queue: expected 1 to 1000, got 0"),
        ("--queue=1001", "queue: expected 1 to 1000, got 1001"),
        ("--batch=0", "batch: expected 1 to 1024, got 0"),
        ("--cache=-1", "cache: expected 0 to"),
        ("--wait-ms=-1", "wait_ms: expected 0 to 1000, got -1.0"),
        ("--wait-ms=nan", "wait_ms: expected 0 to 1000, got nan"),
        ("--device=tpu", "device: expected one of auto, cpu, cuda, got 'tpu'"),
        ("--ocr=yes", "ocr: expected one of on, off, got 'yes'"),
        ("--cors-origin=*", "cors_origin: expected an origin such as https://example.org, without a path, got '*'"),
        ("--cors-origin=example.org", "cors_origin: expected an origin"),
        ("--cors-origin=https://example.org/", "cors_origin: expected an origin"),
    ],
)
def test_values_out_of_range_are_errors(
    bad: str, sentence: str, served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", bad]) == 2 and not served
    told = capsys.readouterr().err
    assert told.startswith(f"error: {sentence}") and told.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "sentence"),
    [
        ("API_PORT", "eighty", "API_PORT: expected a whole number, got 'eighty'"),
        ("API_PORT", "99999", "API_PORT: expected 0 to 65535, got 99999"),
        ("API_WAIT_MS", "soon", "API_WAIT_MS: expected a number, got 'soon'"),
        ("API_LOG_CONTENT", "yes", "API_LOG_CONTENT: expected true or false, got 'yes'"),
        ("API_DEVICE", "tpu", "API_DEVICE: expected one of auto, cpu, cuda, got 'tpu'"),
        ("API_BUNDLE", "nowhere", "nowhere/config.json: no such file; existing bundles: latest"),
    ],
)
def test_a_bad_variable_is_named(
    variable: str,
    value: str,
    sentence: str,
    served: list[ServeSettings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    assert main(["serve"]) == 2 and not served
    assert capsys.readouterr().err == f"error: {sentence}\n"


@pytest.mark.parametrize("value", ["tcp://10.0.0.1:80", "udp://[fd00::1]:53", ""])
def test_what_kubernetes_sets_for_a_service_called_api_is_ignored(
    value: str, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_PORT", value)
    assert main(["serve"]) == 0 and served[0].port == ServeSettings().port


def test_a_flag_of_the_wrong_type_is_refused_in_one_sentence(
    served: list[ServeSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["serve", "--port=eighty"])
    said = capsys.readouterr().err
    assert said == "error: --port: invalid int value: 'eighty'; see `python -m api serve --help`\n" and not served


def test_a_bundle_is_found_by_its_name(served: list[ServeSettings]) -> None:
    assert main(["serve", "--bundle=latest"]) == 0 and served[0].bundle == Path("latest")  # found again at each reload
    assert main(["serve", "--bundle=nothing"]) == 2 and len(served) == 1


@pytest.mark.parametrize(("word", "value"), [("true", True), ("True", True), ("false", False), ("FALSE", False)])
def test_log_content_is_true_or_false(
    word: str, value: bool, served: list[ServeSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_LOG_CONTENT", word)
    assert main(["serve"]) == 0 and served[0].log_content is value


@pytest.mark.parametrize("command", ["serve", "predict"])
def test_help_has_all_defaults_and_variables(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    told = " ".join(capsys.readouterr().out.split())
    named = (
        VALUES if command == "serve" else ("bundle", "artifacts", "model", "pretrained", "device", "ocr", "ocr_lang")
    )
    for field in fields(ServeSettings):
        assert (f"API_{field.name.upper()}" in told) == (field.name in named)
    assert "default: artifacts/bundles/latest" in told


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
        (b"", "holds no key"),
        (b"# a remark\n\n", "holds no key"),
        (b"a-long-enough-key\nshort\n", "line 2: expected at least 16 ASCII"),
        (b"a key with some spaces in it\n", "line 1: expected"),
        ("ein-schlüssel-mit-umlaut\n".encode(), "line 1: expected"),
    ],
)
def test_an_unusable_file_of_keys_is_an_error_without_a_key(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as caught:
        make_service(keys_file=str(path))
    assert str(path) in str(caught.value) and "key-" not in str(caught.value).replace(str(path), "")
