"""Settings and metrics of a bundle as text, for the pages and the terminal."""

from typing import Any

from cache import spec_id
from head.candidates.table import CANDIDATES
from head.fitting import ENSEMBLE
from head.judge.metrics import Estimate, read_estimate
from head.judge.threshold import aim_words
from head.judge.verdict import unfrozen_words

# Table headings, in the order of `head.judge.metrics.METRICS`.
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
# Metrics that fit a terminal of 100 columns.
_MAIN = ("accuracy", "f1_offensive", "macro_f1")
# Candidates shown beside the shipped method and the reference; the others are collapsed.
_BEST = 3


def point(figure: dict[str, Any]) -> str:
    """The point estimate, or n/a if undefined."""
    value = read_estimate(figure).point
    return "n/a" if value is None else f"{value:.3f}"


def interval(figure: dict[str, Any]) -> str:
    """The 95 % interval, or "" if there is none."""
    estimate = read_estimate(figure)
    return "" if estimate.low is None or estimate.high is None else f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def p_words(p: float | None) -> str:
    """`p 0.034`, or "" for None."""
    return "" if p is None else f"p {p:.3f}"


def estimate(figure: dict[str, Any]) -> str:
    """Point estimate and interval."""
    return f"{point(figure)} {interval(figure)}".rstrip()


def percent(share: float | None) -> str:
    """A share as a percentage with one decimal, n/a for None."""
    return "n/a" if share is None else f"{100 * share:.1f} %"


def percent_point(figure: dict[str, Any]) -> str:
    """The point estimate of a share as a percentage."""
    return percent(read_estimate(figure).point)


def percent_interval(figure: dict[str, Any]) -> str:
    """The interval of a share in per cent, or "" if there is none."""
    value = read_estimate(figure)
    return "" if value.low is None or value.high is None else f"[{100 * value.low:.1f}, {100 * value.high:.1f}]"


def memes(count: int) -> str:
    """`1 meme`, `1,000 memes`."""
    return f"{count:,} meme{'' if count == 1 else 's'}"


def judged_words(config: dict[str, Any], split: str) -> str:
    """The name of the evaluated memes."""
    if split == "test":
        return "the test split"
    if split == "nested":
        return "train and validation, in outer folds"
    return "validation" if config["protocol"]["name"] == "official" else "train and validation, out of fold"


def measure_words(config: dict[str, Any]) -> str:
    """The name of a trial's value. A fine-tuned bundle has the study of its source, which may have another protocol."""
    protocol = config["study"].get("protocol", config["protocol"])
    return "validation AUROC" if protocol["name"] == "official" else "cross-validated AUROC"


def protocol_words(config: dict[str, Any]) -> str:
    """How trials were evaluated."""
    protocol = config["protocol"]
    if protocol["name"] == "official":
        return "official: trained on train, chosen on validation"
    repeats = protocol["repeats"]
    times = "" if repeats == 1 else f", {repeats} times over"
    return f"{protocol['folds']}-fold cross-validation on train and validation{times}, near-duplicates in one fold"


def finetuning_words(config: dict[str, Any]) -> str:
    """The fine-tuning, or "" for a frozen encoder."""
    tuned = config.get("finetuned")
    if tuned is None:
        return ""
    return (
        f"{unfrozen_words(tuned)}, and the heads of {tuned['from']['name']}, version {tuned['from']['version']}: "
        f"{tuned['trained']:,} weights at a learning rate of {tuned['learning_rate']:g}, epoch {tuned['best_epoch']} of "
        f"{len(tuned['history']) - 1} kept, {tuned['memes_per_second']:,.0f} memes/s"
    )


def tried_words(tuned: dict[str, Any]) -> str:
    """The learning rates that were tried, or "" for fewer than two."""
    if len(tuned.get("tried", ())) < 2:
        return ""
    losses = "; ".join(f"{one['learning_rate']:g}: {one['validation_loss']:.4f}" for one in tuned["tried"])
    return f"Learning rates and the lowest loss on validation with each: {losses}."


def learning_words(learning: dict[str, Any]) -> str:
    """Whether the learning curve still rises."""
    before, last = learning["curve"][-2:]
    gain = last["auroc"] - before["auroc"]
    error = (last["error"] ** 2 + before["error"] ** 2) ** 0.5
    rises = (
        "It still rises: more labels are likely to help"
        if gain > error
        else "More labels of the same kind may help little"
    )
    return (
        f"From {memes(before['memes'])} to {last['memes']:,}, the AUROC of the {learning['method']} goes from {before['auroc']:.3f} to "
        f"{last['auroc']:.3f} (standard error of the difference {error:.3f}). {rises}."
    )


def estimate_percent(value: Estimate) -> str:
    """A share and its interval in per cent."""
    return f"{percent_point(value.plain())} {percent_interval(value.plain())}".rstrip()


def shipped_words(config: dict[str, Any]) -> str:
    """The shipped method, and the number of heads of an ensemble."""
    shipped, picks = config["shipped"], config["study"]["picks"]
    if shipped != ENSEMBLE:
        return str(shipped)
    heads = sum(part["members"] for part in config["parts"][shipped])
    methods = "method" if len(picks) == 1 else "methods"
    return f"{shipped}, {heads} head{'' if heads == 1 else 's'} of {len(picks)} {methods}"


def main_methods(shipped: str, metrics: dict[str, Any]) -> list[str]:
    """The methods to show first, in their order: the shipped one, the reference, those that are no candidates, and the
    candidates with the highest AUROC."""

    def worth(name: str) -> float:
        return read_estimate(metrics["methods"][name]["figures"]["auroc"]).point or 0.0

    candidates = sorted((name for name in metrics["methods"] if name in CANDIDATES), key=worth, reverse=True)
    lesser = set(candidates[_BEST:]) - {shipped, metrics["reference"]}
    return [name for name in metrics["methods"] if name not in lesser]


def settings_line(values: dict[str, Any]) -> str:
    """Settings in one line."""
    return ", ".join(f"{name} {value}" for name, value in flatten(values).items())


def flatten(values: dict[str, Any]) -> dict[str, str]:
    """{dotted name: value} of nested settings."""
    found: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": words for inner, words in flatten(value).items()}
        else:
            found[name] = setting(value)
    return found


def setting(value: Any) -> str:
    """One value, floats with four digits."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def pick_words(pick: dict[str, Any]) -> str:
    """A part of the ensemble in one line; the settings of candidates are in the table of methods."""
    times = "once" if pick["picked"] == 1 else f"{pick['picked']} times"
    settings = settings_line({**pick.get("head", {}), **pick.get("train", {})})
    return f"picked {times}" + (f"; {settings}" if settings else "")


def pick_name(pick: dict[str, Any]) -> str:
    """The candidate or trial that was picked; older bundles have trials only."""
    return pick["method"] if "method" in pick else f"trial {pick['trial']}"


def recipes(study: dict[str, Any]) -> dict[str, str]:
    """{published settings: their value}, in the order of trials."""
    tried = {run["recipe"]: run for run in study["history"] if "recipe" in run}
    return {name: "diverged" if run["value"] is None else f"{run['value']:.3f}" for name, run in tried.items()}


def readings_words(readings: list[dict[str, Any]]) -> str:
    """How often the test split has been used."""
    bundles = len({(one["bundle"], one["version"]) for one in readings})
    if len(readings) == 1:
        return f"used once, on {readings[0]['date']}"
    whose = "one bundle" if bundles == 1 else f"{bundles} bundles"
    return (
        f"used {len(readings)} times, for {whose}, from {readings[0]['date']} to {readings[-1]['date']}: the best of several "
        "results is optimistic"
    )


def facts(
    config: dict[str, Any], metrics: dict[str, Any], label: list[int], readings: list[dict[str, Any]]
) -> dict[str, str]:
    """The summary at the top of the page; readings: evaluations on the test split so far."""
    review = config["review"]
    known = {
        "evaluated on": f"{judged_words(config, metrics['split'])}: {memes(len(label))}, {sum(label):,} offensive",
        "protocol": protocol_words(config),
        "ships": shipped_words(config),
        "threshold": f"{config['threshold']:.3f}, chosen for {aim_words(config['aim'])}",
    }
    if metrics["split"] == "test" and readings:
        known["test memes"] = readings_words(readings)
    if review is not None:
        known["review"] = f"from {review['low']:.3f} to {review['high']:.3f}: a person decides"
    return known


def provenance(config: dict[str, Any]) -> dict[str, str]:
    """How the bundle was made."""
    data, study, calibration = config["data"], config["study"], config["calibration"]
    return {
        "bundle": f"{config['name']}, version {config['version']}, made {config['created']}",
        "data": f"{data['source']}, index {data['index']}",
        "fingerprint": data["fingerprint"],
        "memes": _counts(data["counts"]),
        "near-duplicates": f"the memes are in {data['groups']:,} groups; a group is in one fold",
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
    """The table of methods for a terminal of 100 columns: the main metrics, and AUROC with its interval."""
    widths = {metric: len(METRIC_NAMES[metric]) + 2 for metric in _MAIN}
    heads = "".join(f"{METRIC_NAMES[metric]:<{width}}" for metric, width in widths.items())
    lines = [f"{'':<34}{heads}AUROC"]
    shown = main_methods(config["shipped"], metrics)
    for name in shown:
        figures = metrics["methods"][name]["figures"]
        mark = "* " if name == config["shipped"] else "  "
        cells = "".join(f"{point(figures[metric]):<{width}}" for metric, width in widths.items())
        lines.append(f"{mark}{name:<32}{cells}{estimate(figures['auroc'])}")
    folded = len(metrics["methods"]) - len(shown)
    return "\n".join(lines + [f"  and {folded} more on the page"] * bool(folded))


def _best(study: dict[str, Any]) -> str:
    if study["best_value"] is None:
        return "none finished"
    return f"number {study['best_trial']}, {study['best_value']:.3f}: the best of many, so an optimistic value"


def _counts(counts: dict[str, dict[str, int]]) -> str:
    parts = {split: ", ".join(f"{count:,} {label}" for label, count in part.items()) for split, part in counts.items()}
    return "; ".join(f"{split} {part}" for split, part in parts.items())
