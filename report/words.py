"""A bundle's settings and figures in words: for the page, for the terminal, for the comparison.

Knows the names that config.json and metrics.json use; knows nothing of HTML. Every `python -m report` uses it.
"""

from typing import Any

from cache import spec_id
from head.judge.metrics import read_figure
from head.judge.verdict import unfrozen_words
from head.pipeline import ENSEMBLE

# As in the tables' heads; the order is that of `head.judge.metrics.METRICS`.
METRIC_NAMES = {
    "accuracy": "accuracy",
    "f1_offensive": "F1 offensive",
    "macro_f1": "macro-F1",
    "weighted_f1": "weighted F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "brier": "Brier score",
    "ece": "calibration error",
}
LOWER_IS_BETTER = ("brier", "ece")
# Of the metrics: what a line of 100 columns has room for.
_MAIN = ("accuracy", "f1_offensive", "macro_f1")


def point(figure: dict[str, Any]) -> str:
    """The point estimate, or n/a where it is undefined."""
    value = read_figure(figure).estimate.point
    return "n/a" if value is None else f"{value:.3f}"


def interval(figure: dict[str, Any]) -> str:
    """The 95 % interval, or nothing where there is none."""
    estimate = read_figure(figure).estimate
    return "" if estimate.low is None or estimate.high is None else f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def p_value(figure: dict[str, Any]) -> str:
    """`p 0.034`, or nothing where there is none."""
    return p_words(read_figure(figure).p)


def p_words(p: float | None) -> str:
    """A p as `p 0.034`, or nothing where there is none."""
    return "" if p is None else f"p {p:.3f}"


def estimate(figure: dict[str, Any]) -> str:
    """Point and interval in one line."""
    return f"{point(figure)} {interval(figure)}".rstrip()


def percent(share: float | None) -> str:
    """A share as per cent, to one decimal."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def percent_point(figure: dict[str, Any]) -> str:
    """A share's point estimate as per cent."""
    return percent(read_figure(figure).estimate.point)


def percent_interval(figure: dict[str, Any]) -> str:
    """A share's interval as per cent, or nothing where there is none."""
    value = read_figure(figure).estimate
    return "" if value.low is None or value.high is None else f"[{100 * value.low:.1f}, {100 * value.high:.1f}]"


def memes(count: int) -> str:
    """A number of memes."""
    return f"{count:,} meme{'' if count == 1 else 's'}"


def judged_words(config: dict[str, Any], split: str) -> str:
    """What the judged memes are to the reader."""
    if split == "test":
        return "the test split"
    if split == "nested":
        return "train and validation, in outer folds"
    return "validation" if config["protocol"]["name"] == "official" else "train and validation, out of fold"


def measure_words(config: dict[str, Any]) -> str:
    """What a trial's value is; a fine-tuned bundle has the study of the one before, which had a protocol of its own."""
    protocol = config["study"].get("protocol", config["protocol"])
    return "validation AUROC" if protocol["name"] == "official" else "cross-validated AUROC"


def protocol_words(config: dict[str, Any]) -> str:
    """How trials were judged."""
    protocol = config["protocol"]
    if protocol["name"] == "official":
        return "official: trained on train, chosen on validation"
    repeats = protocol["repeats"]
    times = "" if repeats == 1 else f", {repeats} times over"
    return f"{protocol['folds']}-fold cross-validation on train and validation{times}, near-copies in one fold"


def finetuning_words(config: dict[str, Any]) -> str:
    """What was fine-tuned, or nothing of a bundle that was not."""
    tuned = config.get("finetuned")
    if tuned is None:
        return ""
    return (
        f"{unfrozen_words(tuned)}, and the heads of {tuned['from']['name']}, version {tuned['from']['version']}: "
        f"{tuned['trained']:,} weights at a learning rate of {tuned['learning_rate']:g}, epoch {tuned['best_epoch']} of "
        f"{len(tuned['history']) - 1} kept, {tuned['memes_per_second']:,.0f} memes/s"
    )


def aim_words(config: dict[str, Any]) -> str:
    """What the threshold was chosen for."""
    aim = config["aim"]
    if aim["target"] is None:
        return f"the best {aim['objective'].replace('f1', 'F1')}"
    return f"a {aim['objective']} of at least {aim['target']:g}"


def shipped_words(config: dict[str, Any]) -> str:
    """Which method the bundle serves, and of how many heads an ensemble is made."""
    shipped, picks = config["shipped"], config["study"]["picks"]
    if shipped != ENSEMBLE:
        return str(shipped)
    heads = sum(part["members"] for part in config["parts"][shipped])
    trials = "trial" if len(picks) == 1 else "trials"
    return f"{shipped}, {heads} head{'' if heads == 1 else 's'} of {len(picks)} {trials}"


def settings_line(values: dict[str, Any]) -> str:
    """Names and values in one line, numbers short."""
    return ", ".join(f"{name} {value}" for name, value in leaves(values).items())


def leaves(values: dict[str, Any]) -> dict[str, str]:
    """{dotted name: value in words} of nested settings."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": words for inner, words in leaves(value).items()}
        else:
            found[name] = setting(value)
    return found


def setting(value: Any) -> str:
    """One value, a number short."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def pick_words(pick: dict[str, Any]) -> str:
    """A trial of the ensemble in one line."""
    times = "once" if pick["picked"] == 1 else f"{pick['picked']} times"
    return f"picked {times}; {settings_line({**pick['head'], **pick['train']})}"


def facts(config: dict[str, Any], metrics: dict[str, Any], label: list[int]) -> dict[str, str]:
    """What a reader needs to know before the figures."""
    review = config["review"]
    known = {
        "judged on": f"{judged_words(config, metrics['split'])}: {memes(len(label))}, {sum(label):,} offensive",
        "protocol": protocol_words(config),
        "ships": shipped_words(config),
        "threshold": f"{config['threshold']:.3f}, chosen for {aim_words(config)}",
    }
    if review is not None:
        known["review"] = f"from {review['low']:.3f} to {review['high']:.3f}: a person decides"
    return known


def provenance(config: dict[str, Any]) -> dict[str, str]:
    """What made the bundle."""
    data, study, calibration = config["data"], config["study"], config["calibration"]
    return {
        "bundle": f"{config['name']}, version {config['version']}, made {config['created']}",
        "data": f"{data['source']}, index {data['index']}",
        "fingerprint": data["fingerprint"],
        "memes": _counts(data["counts"]),
        "near-copies": f"the memes fall into {data['groups']:,} groups; a group stays in one fold",
        "encoder": " ".join(word for word in config["encoder"].values() if word) + f", spec {spec_id(config['spec'])}",
        **({"fine-tuned": finetuning_words(config)} if "finetuned" in config else {}),
        "protocol": protocol_words(config),
        "study": f"{study['name']}: {study['trials']:,} trials, {study['sampler']}, {study['pruner']}",
        "best trial": _best(study),
        "calibration": f"{calibration['kind']}, slope {calibration['slope']:.4g}, offset {calibration['offset']:.4g}",
        "seed": str(config["seed"]),
        "versions": settings_line(config["versions"]),
    }


def methods_table(config: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The table of methods for a terminal of 100 columns: the main metrics, and of AUROC all that is known."""
    widths = {metric: len(METRIC_NAMES[metric]) + 2 for metric in _MAIN}
    heads = "".join(f"{METRIC_NAMES[metric]:<{width}}" for metric, width in widths.items())
    lines = [f"{'':<34}{heads}{'AUROC':<23}p"]
    for name, method in metrics["methods"].items():
        figures = method["figures"]
        mark = "* " if name == config["shipped"] else "  "
        cells = "".join(f"{point(figures[metric]):<{width}}" for metric, width in widths.items())
        p = p_value(figures["auroc"]).removeprefix("p ")
        lines.append(f"{mark}{name:<32}{cells}{estimate(figures['auroc']):<23}{p}".rstrip())
    return "\n".join(lines)


def _best(study: dict[str, Any]) -> str:
    if study["best_value"] is None:
        return "none finished"
    return f"number {study['best_trial']}, {study['best_value']:.3f}: the best of many, and so an optimistic figure"


def _counts(counts: dict[str, dict[str, int]]) -> str:
    parts = {split: ", ".join(f"{count:,} {label}" for label, count in part.items()) for split, part in counts.items()}
    return "; ".join(f"{split} {part}" for split, part in parts.items())
