"""The evaluation of a model bundle as self-contained HTML. The only room that imports matplotlib.

For Python programs: `judge` (docs/python.md).
"""

from typing import TYPE_CHECKING

from cache import on_first_use

if TYPE_CHECKING:
    from report.costs import CostModel
    from report.judged import JudgedBundle
    from report.judging import judge

__all__ = ["CostModel", "JudgedBundle", "judge"]
__getattr__ = on_first_use(
    __name__, {"CostModel": "report.costs", "JudgedBundle": "report.judged", "judge": "report.judging"}
)
