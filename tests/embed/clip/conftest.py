"""Models leave cycles behind; Python collects them late, since it does not see how large a tensor is."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def models_collected() -> Iterator[None]:
    yield
    gc.collect()
