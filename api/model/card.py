"""The model card of `GET /model`, made from the bundle's files. It holds no path of this machine."""

from pathlib import Path
from typing import Any

from msgspec import UNSET

from api.model.classifier import MemeClassifier
from api.schema import Figure, FineTuning, Model, ModelCard, Review
from cache import NOTICE, is_demo_encoder
from head.bundle.format import UnusableBundle, demo_notice_of, read_part
from head.judge.threshold import aim_words
from head.judge.verdict import verdict

_INTENDED = [
    "To rank and pre-sort memes for human moderators, by the probability that a meme is offensive.",
    "To be compared with a threshold that fits the costs of errors in its use.",
]
_LIMITS = [
    "It learnt what the annotators of the training memes called offensive, and shares their biases.",
    (
        "Every metric holds for memes like those that it was evaluated on; other sources, years and languages need labels "
        "of their own, and a model tuned and evaluated on them."
    ),
    "Text that is missing, or that OCR misread, is not taken into account.",
    "It must not be the only reason to punish, publish or profile a person.",
]


def model_card(folder: Path, classifier: MemeClassifier, engine: str | None) -> ModelCard:
    """The card of a loaded bundle. engine: the name of the OCR engine, None for no OCR.

    Raises UnusableBundle if config.json or metrics.json lacks a value.
    """
    metrics = read_part(folder, "metrics.json")
    try:
        return _card(classifier, classifier.config["tuning_metrics"] if metrics is None else metrics, engine)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnusableBundle(
            f"{folder}: {error!r} is missing or invalid in {'config' if metrics is None else 'metrics'}.json; run "
            "`make tune`, then `make report`, again"
        ) from error


def _card(classifier: MemeClassifier, metrics: dict[str, Any], engine: str | None) -> ModelCard:
    config = classifier.config
    shown = dict.fromkeys((config["shipped"], metrics["reference"]))
    return ModelCard(
        model=served_model(classifier),
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
        text_reading=engine or "none: a meme without text is classified by its picture",
        intended_use=_INTENDED,
        limits=_LIMITS,
        notice=NOTICE if is_demo_encoder(config["spec"]) else UNSET,
        finetuned=_fine_tuning(config["finetuned"]) if "finetuned" in config else UNSET,
    )


def served_model(classifier: MemeClassifier) -> Model:
    """Name and version of a bundle, and the notice if it is the demo's encoder on other memes."""
    return Model(classifier.name, classifier.version, demo_notice_of(classifier.config) or UNSET)


_JUDGED_ON = {
    "test": "the test split, which tuning never used, evaluated once",
    "tuning": "the memes tuned on, out of fold: slightly optimistic",
}


def _fine_tuning(finetuned: dict[str, Any]) -> FineTuning:
    shown = ("towers", "blocks", "lora", "trained", "learning_rate", "epochs", "best_epoch")
    source = Model(finetuned["from"]["name"], finetuned["from"]["version"])
    return FineTuning(source, **{name: finetuned[name] for name in shown})
