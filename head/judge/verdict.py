"""The figures in a few plain sentences.

Reads metrics as they stand in a bundle's JSON; fits and measures nothing, so that a server can say it too.
"""

from typing import Any

from head.judge.metrics import Estimate, read_estimate
from head.model.method import MAJORITY

# The metrics that fit a terminal; the report has all.
_SHOWN = {"accuracy": "accuracy", "f1_offensive": "F1 offensive", "macro_f1": "macro-F1", "auroc": "AUROC"}
# A p below this is called better or worse; the custom of the field.
_SIGNIFICANT = 0.05


def verdict(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The evaluation in a few plain sentences: the shipped method against chance, then against the simple one."""
    figures = {name: read_estimate(method["figures"]["auroc"]) for name, method in metrics["methods"].items()}
    shipped, reference, split = config["shipped"], metrics["reference"], metrics["split"]
    ours, peer = figures[shipped], figures[reference]
    where = {"test": "On test", "nested": "In nested cross-validation"}.get(split) or _tuning_memes(config)
    if ours.point is None:
        return f"{where} all memes are of one class, so AUROC is undefined and nothing is compared."
    name = f"{shipped} model" if "frozen" in metrics else shipped
    said = f"{where}, the {name} has an AUROC of {ours}"
    vectors = "the encoder's vectors as they were" if "frozen" in metrics else "the same vectors"
    which = "" if split == "nested" else f" ({reference})"  # there, another in each fold
    said += "" if shipped == reference else f", the best simple method{which} on {vectors} {peer}"
    if ours.contains(0.5):
        said += ". The interval contains 0.5: no better than guessing here."
    elif ours.point < 0.5:
        said += ". It ranks the memes the wrong way round: worse than guessing here."
    else:
        simple = _against("the best simple method", ours, peer, stated_p(shipped, metrics))
        said += ". It is better than guessing" + ("." if shipped == reference else f", and {simple}.")
    said += _beside_majority(shipped, metrics)
    if "frozen" in metrics:
        said += f" {_against_frozen(metrics, ours)}"
    return said + (_OPTIMISTIC["frozen" in metrics] if split == "tuning" else "")


def stated_p(shipped: str, metrics: dict[str, Any]) -> float | None:
    """The one p: of the AUROC of what ships against the reference's. Older bundles have it beside the figure."""
    return metrics["p"] if "p" in metrics else metrics["methods"][shipped]["figures"]["auroc"].get("p")


def unfrozen_words(finetuned: dict[str, Any]) -> str:
    """What of an encoder learns, from "blocks", "towers" and "lora" as config.json has them."""
    blocks = "the last block" if finetuned["blocks"] == 1 else f"the last {finetuned['blocks']} blocks"
    towers = "both towers" if finetuned["towers"] == "both" else f"the {finetuned['towers']} tower"
    return f"{blocks} of {towers}" + (f" by LoRA of rank {finetuned['lora']}" if finetuned["lora"] else "")


def metrics_table(title: str, metrics: dict[str, Any]) -> str:
    """The methods' main figures with their intervals, for a terminal."""
    lines = [f"{title:<33}" + "".join(f"{heading:<22}" for heading in _SHOWN.values()).rstrip()]
    for name, method in metrics["methods"].items():
        cells = "".join(f"{read_estimate(method['figures'][metric])!s:<22}" for metric in _SHOWN)
        lines.append(f"{name:<33}{cells}".rstrip())
    return "\n".join(lines)


# What is said where there is no test split, of a tuned and of a fine-tuned bundle.
_OPTIMISTIC = {
    False: " There is no test split: each part of the memes is judged by what was fitted and chosen without it, but the search "
    "and the choice of what ships saw all of them, so the figures are a little optimistic. `make tune-nested` repeats those, too.",
    True: " There is no test split: each part of validation is judged after the epoch that the others choose, but the search "
    "saw all of them, so the figures are a little optimistic.",
}


def _beside_majority(shipped: str, metrics: dict[str, Any]) -> str:
    """Accuracy says nothing without what calling all memes the same would reach."""
    methods = metrics["methods"]
    if MAJORITY not in methods or "accuracy" not in methods[shipped]["figures"]:
        return ""
    ours, peer = (read_estimate(methods[name]["figures"]["accuracy"]) for name in (shipped, MAJORITY))
    return f" Its accuracy is {ours}; one answer for all memes reaches {peer.point:.3f}."


def _tuning_memes(config: dict[str, Any]) -> str:
    return "On validation" if config["protocol"]["name"] == "official" else "Out of fold, on the memes tuned on"


def _against_frozen(metrics: dict[str, Any], ours: Estimate) -> str:
    """A sentence on what fine-tuning the encoder was worth."""
    reference = metrics["frozen"]["reference"]
    before = read_estimate(metrics["methods"][reference]["figures"]["auroc"])
    told = _against(f"the {reference}", ours, before, metrics["frozen"].get("p"))
    return f"The {reference}, on the encoder as it was, has {before}: what fine-tuning made of it is {told}."


def _against(name: str, ours: Estimate, peer: Estimate, p: float | None) -> str:
    if ours.point is None or peer.point is None or p is None:
        return f"not distinguishable from {name} (no p)"
    figure = f"difference {ours.point - peer.point:+.3f}, p {p:.3f}"
    if p >= _SIGNIFICANT:
        return f"not distinguishable from {name} ({figure})"
    if ours.point > peer.point:
        return f"better than {name} ({figure})"
    return f"worse than {name}, which is the simpler choice ({figure})"
