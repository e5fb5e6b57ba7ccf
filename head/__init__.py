"""Tuning a fusion head over cached vectors: arrays in, a model bundle out. Never loads CLIP.

For Python programs: `tune` and `load_bundle`, with `SearchRequest`, `Shipping`, `Protocol` and `Aim` (docs/python.md).
"""

from typing import TYPE_CHECKING

from cache import on_first_use

if TYPE_CHECKING:
    from head.bundle.format import Bundle, load_bundle
    from head.data.folds import Protocol
    from head.judge.threshold import Aim
    from head.tuning import SearchRequest, Shipping, tune

__all__ = ["Aim", "Bundle", "Protocol", "SearchRequest", "Shipping", "load_bundle", "tune"]
__getattr__ = on_first_use(
    __name__,
    {
        "Aim": "head.judge.threshold",
        "Bundle": "head.bundle.format",
        "Protocol": "head.data.folds",
        "SearchRequest": "head.tuning",
        "Shipping": "head.tuning",
        "load_bundle": "head.bundle.format",
        "tune": "head.tuning",
    },
)
