"""The figures in a few plain sentences.

Reads metrics as they stand in a bundle's JSON; fits and measures nothing, so that a server can say it too.
"""

from typing import Any

from head.metrics import Estimate, read_figure

# A p below this is called better or worse; the custom of the field.
_SIGNIFICANT = 0.05


def verdict(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The evaluation in a few plain sentences: the shipped method against chance, then against logistic regression."""
    figures = {name: read_figure(method["figures"]["auroc"]) for name, method in metrics["methods"].items()}
    shipped, reference, split = config["shipped"], metrics["reference"], metrics["split"]
    ours, peer = figures[shipped].estimate, figures[reference].estimate
    where = {"test": "On test", "nested": "In nested cross-validation"}.get(split) or _tuning_memes(config)
    if ours.point is None:
        return f"{where} all memes are of one class, so AUROC is undefined and nothing is compared."
    said = f"{where}, the {shipped} has an AUROC of {ours}"
    said += "" if shipped == reference else f", logistic regression on the same vectors {peer}"
    if ours.contains(0.5):
        said += ". The interval contains 0.5: no better than guessing here."
    elif ours.point < 0.5:
        said += ". It ranks the memes the wrong way round: worse than guessing here."
    elif split == "tuning":
        # The best of many trials has an interval above 0.5 on pure noise, too.
        said += ". Whether that is better than guessing cannot be told from the memes that chose it."
    else:
        said += ". It is better than guessing"
        said += "." if shipped == reference else f", and {_against(ours, peer, figures[shipped].p)}."
    return said + (_OPTIMISTIC if split == "tuning" else "")


_OPTIMISTIC = (
    " There is no test split: these figures are optimistic, since the same memes chose the heads, and the intervals do "
    "not allow for that. `make tune-nested` gives an honest estimate."
)


def _tuning_memes(config: dict[str, Any]) -> str:
    return "On validation" if config["protocol"]["name"] == "official" else "Out of fold, on the memes tuned on"


def _against(ours: Estimate, peer: Estimate, p: float | None) -> str:
    if ours.point is None or peer.point is None or p is None:
        return "not distinguishable from logistic regression (no p)"
    figure = f"difference {ours.point - peer.point:+.3f}, p {p:.3f}"
    if p >= _SIGNIFICANT:
        return f"not distinguishable from logistic regression ({figure})"
    if ours.point > peer.point:
        return f"better than logistic regression ({figure})"
    return f"worse than logistic regression, which is the simpler choice ({figure})"
