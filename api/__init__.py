"""The classifier (CLIP encoder and head) and its HTTP server. The only room that imports Flask and waitress.

For Python programs: `load_classifier` (docs/python.md).
"""

from typing import TYPE_CHECKING

from cache import on_first_use

if TYPE_CHECKING:
    from api.model.classifier import MemeClassifier
    from api.model.loading import load_classifier

__all__ = ["MemeClassifier", "load_classifier"]
__getattr__ = on_first_use(__name__, {"MemeClassifier": "api.model.classifier", "load_classifier": "api.model.loading"})
