"""The demo command: help and unknown arguments run nothing."""

import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import demo.__main__
from demo.__main__ import main
from demo.examples import pair


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
    assert "usage: python -m demo" in printed.out if code == 0 else printed.err.startswith("error: unrecognized")


class Answering(BaseHTTPRequestHandler):
    """Answers every request with a JSON object."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"label": "offensive"}')

    def log_message(self, *_: Any) -> None:
        pass


def test_the_request_to_this_machine_goes_past_a_proxy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        Thread(target=server.serve_forever).start()
        try:
            demo.__main__._predict(f"http://127.0.0.1:{server.server_port}", pair()[0])
        finally:
            server.shutdown()
    assert '"label": "offensive"' in capsys.readouterr().out


def test_settings_of_another_server_are_not_the_demos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.__main__, "_LOG", tmp_path / "serve.log")
    monkeypatch.setenv("API_KEYS_FILE", "keys")
    started: list[dict[str, str]] = []

    def popen(*_: Any, env: dict[str, str], **__: Any) -> None:
        started.append(env)
        raise InterruptedError

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(InterruptedError), demo.__main__._server():
        pass
    assert "PATH" in started[0] and "API_KEYS_FILE" not in started[0]
