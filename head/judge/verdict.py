"""An evaluation in a few plain sentences, from the metrics in a bundle's JSON."""

from typing import Any

from head.judge.metrics import Estimate, read_estimate
from head.model.method import MAJORITY

# Columns of the table on a terminal; the report shows all metrics.
_SHOWN = {"accuracy": "accuracy", "f1_offensive": "F1 offensive", "macro_f1": "macro-F1", "auroc": "AUROC"}
# Significance level.
_SIGNIFICANT = 0.05


def verdict(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The shipped method against chance, the reference, the majority class and, if fine-tuned, the frozen head."""
    figures = {name: read_estimate(method["figures"]["auroc"]) for name, method in metrics["methods"].items()}
    shipped, reference, split = config["shipped"], metrics["reference"], metrics["split"]
    ours, peer = figures[shipped], figures[reference]
    where = {"test": "On test", "nested": "In nested cross-validation"}.get(split) or _tuning_memes(config)
    if ours.point is None:
        return f"{where} all memes are of one class, so AUROC is undefined and nothing is compared."
    name = f"{shipped} model" if "frozen" in metrics else shipped
    said = f"{where}, the {name} has an AUROC of {ours}"
    vectors = "the frozen encoder's vectors" if "frozen" in metrics else "the same vectors"
    which = "" if split == "nested" else f" ({reference})"  # there, another in each fold
    said += "" if shipped == reference else f", the best simple method{which} on {vectors} {peer}"
    if ours.contains(0.5):
        said += ". The interval contains 0.5: no better than guessing here."
    elif ours.point < 0.5:
        said += ". It ranks the memes in reverse: worse than guessing here."
    else:
        simple = _against("the best simple method", ours, peer, stated_p(shipped, metrics))
        said += ". It is better than guessing" + ("." if shipped == reference else f", and {simple}.")
    said += _beside_majority(shipped, metrics)
    if "frozen" in metrics:
        said += f" {_against_frozen(metrics, ours)}"
    return said + (_OPTIMISTIC["frozen" in metrics] if split == "tuning" else "")


def stated_p(shipped: str, metrics: dict[str, Any]) -> float | None:
    """p-value of the shipped method's AUROC against the reference's; older bundles store it beside the figure."""
    return metrics["p"] if "p" in metrics else metrics["methods"][shipped]["figures"]["auroc"].get("p")


def unfrozen_words(finetuned: dict[str, Any]) -> str:
    """The trained blocks of an encoder in words, from "blocks", "towers" and "lora" of config.json."""
    blocks = "the last block" if finetuned["blocks"] == 1 else f"the last {finetuned['blocks']} blocks"
    towers = "both towers" if finetuned["towers"] == "both" else f"the {finetuned['towers']} tower"
    return f"{blocks} of {towers}" + (f" by LoRA of rank {finetuned['lora']}" if finetuned["lora"] else "")


def metrics_table(title: str, metrics: dict[str, Any]) -> str:
    """The methods' main metrics with intervals, as a table for a terminal."""
    lines = [f"{title:<33}" + "".join(f"{heading:<22}" for heading in _SHOWN.values()).rstrip()]
    for name, method in metrics["methods"].items():
        cells = "".join(f"{read_estimate(method['figures'][metric])!s:<22}" for metric in _SHOWN)
        lines.append(f"{name:<33}{cells}".rstrip())
    return "\n".join(lines)


# Appended if there is no test split; key: whether the bundle is fine-tuned.
_OPTIMISTIC = {
    False: " There is no test split: these figures are cross-fitted, but the search and the choice of the shipped method used "
    "all memes, so they are a little optimistic. `make tune-nested` cross-validates those choices, too.",
    True: " There is no test split: these figures are cross-fitted, but the search used all validation memes, so they are a "
    "little optimistic.",
}


def _beside_majority(shipped: str, metrics: dict[str, Any]) -> str:
    """A sentence on accuracy beside that of the majority class."""
    methods = metrics["methods"]
    if MAJORITY not in methods or "accuracy" not in methods[shipped]["figures"]:
        return ""
    ours, peer = (read_estimate(methods[name]["figures"]["accuracy"]) for name in (shipped, MAJORITY))
    return f" Its accuracy is {ours}; one answer for all memes reaches {peer.point:.3f}."


def _tuning_memes(config: dict[str, Any]) -> str:
    return "On validation" if config["protocol"]["name"] == "official" else "Out of fold, on the memes tuned on"


def _against_frozen(metrics: dict[str, Any], ours: Estimate) -> str:
    """A sentence on the gain from fine-tuning the encoder."""
    reference = metrics["frozen"]["reference"]
    before = read_estimate(metrics["methods"][reference]["figures"]["auroc"])
    compared = _against(f"the {reference}", ours, before, metrics["frozen"].get("p"))
    return f"The {reference}, on the encoder before fine-tuning, has {before}: the fine-tuned model is {compared}."


def _against(name: str, ours: Estimate, peer: Estimate, p: float | None) -> str:
    if ours.point is None or peer.point is None or p is None:
        return f"not distinguishable from {name} (no p)"
    figure = f"difference {ours.point - peer.point:+.3f}, p {p:.3f}"
    if p >= _SIGNIFICANT:
        return f"not distinguishable from {name} ({figure})"
    if ours.point > peer.point:
        return f"better than {name} ({figure})"
    return f"worse than {name}, which is the simpler choice ({figure})"
