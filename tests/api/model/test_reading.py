"""The number of OCR threads."""

import pytest

from api.model import reading
from api.model.reading import LazyTextReader


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (64, 2)])
def test_ocr_uses_at_most_two_threads(cores: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []

    class Engine:
        def __init__(self, threads: int) -> None:
            given.append(threads)

        def read(self, data: bytes) -> str:
            return data.decode()

    monkeypatch.setattr(reading, "cores", lambda: cores)
    monkeypatch.setattr(reading, "TextReader", Engine)
    monkeypatch.setattr(reading, "engine_name", lambda: "an engine")
    reader = LazyTextReader()
    assert [reader.read(b"one"), reader.read(b"two")] == ["one", "two"]
    assert given == [threads]
