"""The client that docs/serving.md shows works as it stands there, against a live server."""

import re
import typing
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from api_fakes import PATIENCE, make_service
from fakes import picture

from api.http.app import create_app
from api.schema import MAX_BODY_BYTES
from api.transport.listener import listen

SERVING = (Path(__file__).parents[2] / "docs/serving.md").read_text("utf-8")
KEY = "a-key-of-this-test"


def client_source() -> str:
    """The first Python block of the section on the client that defines something."""
    section = SERVING.split("\n## A client in Python\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return next((block for block in blocks if "def " in block), "")


@pytest.fixture
def client() -> dict[str, Any]:
    """The names that the shown client defines."""
    names: dict[str, Any] = {"__name__": "client"}
    assert client_source(), "the section `## A client in Python` of docs/serving.md shows no client"
    exec(compile(client_source(), "serving.md", "exec"), names)  # noqa: S102 - it is our own
    return names


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a live server that wants a key."""
    (tmp_path / "keys").write_text(KEY)
    service = make_service(keys_file=str(tmp_path / "keys"))
    listener = listen(create_app(service), "127.0.0.1", 0, 4, MAX_BODY_BYTES)
    thread = Thread(target=listener.run)
    thread.start()
    yield f"http://127.0.0.1:{listener.port}"
    listener.stop()
    thread.join(PATIENCE)
    service.predictor.close()
    assert not thread.is_alive()


@pytest.fixture
def meme(tmp_path: Path) -> Path:
    (tmp_path / "meme.png").write_bytes(picture())
    return tmp_path / "meme.png"


def test_it_gets_what_its_types_promise(client: dict[str, Any], server: str, meme: Path) -> None:
    answer = client["predict"](meme, "four", server=server, key=KEY)
    promised = typing.get_type_hints(client["predict"])["return"]
    for name, kind in typing.get_type_hints(promised).items():
        allowed = typing.get_args(kind)
        assert answer[name] in allowed if allowed else isinstance(answer[name], kind)
    assert (answer["label"], answer["probability"]) == ("offensive", 0.4)
    assert client["predict"](meme, server=server, key=KEY)["probability"] == 0


def test_it_raises_where_it_is_refused(client: dict[str, Any], server: str, meme: Path) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        client["predict"](meme, "four", server=server)
    with refused.value as problem:
        assert problem.code == 401 and b"send one of the server's API keys" in problem.read()


def test_it_needs_nothing_but_python_and_is_short(client: dict[str, Any]) -> None:
    modules = re.findall(r"^(?:import|from) ([\w.]+)", client_source(), re.MULTILINE)
    assert {name.split(".")[0] for name in modules} <= {"base64", "json", "urllib", "pathlib", "typing"}
    code = [line for line in client_source().splitlines() if line and not line.startswith(("import", "from"))]
    assert len(code) <= 12
