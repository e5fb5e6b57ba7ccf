"""Work ahead of whoever takes it: in how many threads."""

import threading

import pytest
from machine import PATIENCE

import embed.base.threads
from embed.base.threads import run_ahead


@pytest.mark.parametrize("cores", [1, 3])
def test_one_thread_a_core(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed.base.threads, "cores", lambda: cores)
    meet = threading.Barrier(cores)  # breaks where fewer are at work at a time

    def work(_item: int) -> int:
        meet.wait(PATIENCE)
        return threading.get_ident()

    assert len(set(run_ahead(work, range(4 * cores), 4 * cores))) == cores
