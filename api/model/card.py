"""The model card that `GET /model` shows: what answers, how good it was found to be, and what it is not for.

Made from the bundle's files, without anything that names a place on this machine.
"""

from pathlib import Path
from typing import Any

from msgspec import UNSET

from api.model.classifier import MemeClassifier
from api.schema import Figure, FineTuning, Model, ModelCard, Review
from head.bundle.format import UnusableBundle, read_part
from head.judge.threshold import aim_words
from head.judge.verdict import verdict

_INTENDED = [
    "To order and pre-sort memes for people who moderate: a probability that a picture with its words is offensive.",
    "To be compared with a threshold that fits the cost of mistakes where it is used.",
]
_LIMITS = [
    "It knows what the training memes' labellers called offensive, and shares their view and their blind spots.",
    (
        "Every figure holds for memes like those it was judged on; others, other years and other languages need labels "
        "of their own, and a model tuned and judged on them."
    ),
    "Words that it did not get, or that were read wrongly off the picture, are words that it did not judge.",
    "It must not be the only reason to punish, publish or profile a person.",
]


def model_card(folder: Path, classifier: MemeClassifier, engine: str | None) -> ModelCard:
    """The card of a bundle that is loaded. engine: what reads texts off pictures, None for nothing. Raises
    UnusableBundle where the bundle does not hold what it shows."""
    metrics = read_part(folder, "metrics.json")
    try:
        return _card(classifier, classifier.config["tuning_metrics"] if metrics is None else metrics, engine)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableBundle(
            f"{folder}: {error!r} is missing or unfit in {'config' if metrics is None else 'metrics'}.json; run "
            "`make tune`, then `make report`, again"
        ) from error


def _card(classifier: MemeClassifier, metrics: dict[str, Any], engine: str | None) -> ModelCard:
    config = classifier.config
    shown = dict.fromkeys((config["shipped"], metrics["reference"]))
    return ModelCard(
        model=Model(classifier.name, classifier.version),
        shipped=config["shipped"],
        created=config["created"],
        labels=config["labels"],
        threshold=classifier.threshold,
        threshold_aim=aim_words(config["aim"]),
        review=None if classifier.review is None else Review(**classifier.review),
        calibration=config["calibration"]["kind"],
        judged_on=_JUDGED_ON[metrics["split"]],
        definition=metrics["definition"],
        metrics={
            name: {
                metric: Figure(figure["point"], figure["interval"])
                for metric, figure in metrics["methods"][name]["figures"].items()
            }
            for name in shown
        },
        verdict=verdict(config, metrics),
        training_memes=config["data"]["counts"],
        training_fingerprint=config["data"]["fingerprint"],
        encoder=config["spec"],
        text_reading=engine or "none: a meme without text is judged by its picture",
        intended_use=_INTENDED,
        limits=_LIMITS,
        finetuned=_fine_tuning(config["finetuned"]) if "finetuned" in config else UNSET,
    )


_JUDGED_ON = {
    "test": "test memes that tuning never saw, looked at once",
    "tuning": "the memes tuned on, each by what was fitted without it: a little optimistic",
}


def _fine_tuning(said: dict[str, Any]) -> FineTuning:
    shown = ("towers", "blocks", "lora", "trained", "learning_rate", "epochs", "best_epoch")
    return FineTuning(Model(said["from"]["name"], said["from"]["version"]), **{name: said[name] for name in shown})
