"""The model card."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from api.model.card import model_card
from api.schema import ModelCard
from head.bundle.format import UnusableBundle
from head.judge.metrics import DEFINITION

SHIPPED, REFERENCE = "fusion ensemble", "logistic regression, both"
HERE = "/home/somebody/secret"

# As `python -m finetune` writes it.
FINETUNED = {
    "from": {"name": "memes-1234--ViT-B-32-5678", "version": "ba9876543210"},
    "blocks": 2,
    "towers": "both",
    "lora": 4,
    "learning_rate": 1e-5,
    "epochs": 6,
    "best_epoch": 3,
    "history": [{"epoch": 0, "train_loss": None, "validation_loss": 0.6, "validation_auroc": 0.7}],
    "trained": 12_345,
    "seconds": 61.5,
    "memes_per_second": 12.0,
    "frozen_index": "memes.h5",
}


def figure(point: float | None, low: float = 0.0, high: float = 1.0) -> dict[str, Any]:
    return {"point": point, "interval": None if point is None else [low, high]}


def metrics_of(split: str, auroc: float | None = 0.7, low: float = 0.6) -> dict[str, Any]:
    """As `head.bundle.evaluation.describe` writes them, with a third method that the card leaves out."""
    figures = {"auroc": figure(auroc, low, 0.8), "macro_f1": figure(0.64, 0.55, 0.71)}
    names = (SHIPPED, REFERENCE, "majority class")
    return {
        "split": split,
        "definition": DEFINITION,
        "reference": REFERENCE,
        "methods": {name: {"threshold": 0.5, "settings": {"C": 1}, "figures": figures} for name in names},
    }


def config_of(**changed: Any) -> dict[str, Any]:
    """A config.json with paths of this machine."""
    return {
        "name": "memes-1234--ViT-B-32-5678",
        "version": "0123456789ab",
        "created": "2026-11-23T12:00:00+00:00",
        "shipped": SHIPPED,
        "labels": ["non-offensive", "offensive"],
        "aim": {"objective": "macro-f1", "target": None},
        "calibration": {"kind": "platt", "slope": 1.0, "offset": 0.0},
        "encoder": {"model": f"local-dir:{HERE}/encoder", "pretrained": f"{HERE}/weights.pt"},
        "spec": {"model": "local-dir", "weights_sha256": "ab" * 32, "dtype": "bfloat16"},
        "data": {
            "source": f"{HERE}/data",
            "index": "memes.h5",
            "fingerprint": "cd" * 32,
            "counts": {"train": {"offensive": 200, "non-offensive": 210}},
        },
        "protocol": {"name": "kfold", "folds": 5, "repeats": 1},
        "study": {"storage": f"sqlite:///{HERE}/studies.sqlite3"},
        "tuning_metrics": metrics_of("tuning", 0.9),
        **changed,
    }


def card_of(
    folder: Path, config: dict[str, Any], review: dict[str, float] | None = None, engine: str | None = None
) -> ModelCard:
    classifier = SimpleNamespace(
        config=config, name=config["name"], version=config["version"], threshold=0.41, review=review
    )
    return model_card(folder, classifier, engine)  # type: ignore[arg-type]


def test_metrics_of_the_test_split_after_a_report(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics_of("test")))
    card = card_of(tmp_path, config_of())
    assert card.judged_on == "the test split, which tuning never used, evaluated once"
    assert card.metrics.keys() == {SHIPPED, REFERENCE}
    assert card.metrics[SHIPPED]["auroc"].point == 0.7 and card.metrics[SHIPPED]["auroc"].interval == [0.6, 0.8]
    assert card.verdict.startswith("On test") and "0.700" in card.verdict and "optimistic" not in card.verdict
    assert card.definition == DEFINITION


def test_metrics_of_tuning_are_called_optimistic(tmp_path: Path) -> None:
    card = card_of(tmp_path, config_of())
    assert card.judged_on == "the memes tuned on, out of fold: slightly optimistic"
    assert card.metrics[SHIPPED]["auroc"].point == 0.9
    assert "optimistic" in card.verdict and "0.900" in card.verdict


@pytest.mark.parametrize("split", ["test", "tuning"])
def test_the_card_has_no_paths(tmp_path: Path, split: str) -> None:
    if split == "test":
        (tmp_path / "metrics.json").write_text(json.dumps(metrics_of("test")))
    shown = msgspec.json.encode(card_of(tmp_path, config_of(), engine="RapidOCR 3")).decode()
    assert HERE in json.dumps(config_of()), "there was nothing to hide"
    for secret in (HERE, "somebody", str(tmp_path), "sqlite", "weights.pt"):
        assert secret not in shown


def test_the_card_describes_the_classifier(tmp_path: Path) -> None:
    card = card_of(tmp_path, config_of(), {"low": 0.3, "high": 0.6}, "RapidOCR 3")
    assert (card.model.name, card.model.version) == ("memes-1234--ViT-B-32-5678", "0123456789ab")
    assert (card.threshold, card.threshold_aim, card.calibration) == (0.41, "the highest macro-F1", "platt")
    assert card.review is not None and (card.review.low, card.review.high) == (0.3, 0.6)
    assert card.text_reading == "RapidOCR 3" and card.encoder == config_of()["spec"]
    assert card.training_memes == {"train": {"offensive": 200, "non-offensive": 210}}
    assert len(card.intended_use) > 1 and len(card.limits) > 2


def test_no_review_band_and_no_ocr(tmp_path: Path) -> None:
    card = card_of(tmp_path, config_of())
    assert card.review is None and card.text_reading.startswith("none")


def test_a_target_recall(tmp_path: Path) -> None:
    card = card_of(tmp_path, config_of(aim={"objective": "recall", "target": 0.9}))
    assert card.threshold_aim == "a recall of at least 0.9"


def test_the_card_survives_json(tmp_path: Path) -> None:
    one_class = config_of(tuning_metrics=metrics_of("tuning", None))
    card = card_of(tmp_path, one_class, {"low": 0.3, "high": 0.6})
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card
    assert card.metrics[SHIPPED]["auroc"].point is None


def test_a_shipped_reference_is_listed_once(tmp_path: Path) -> None:
    assert list(card_of(tmp_path, config_of(shipped=REFERENCE)).metrics) == [REFERENCE]


@pytest.mark.parametrize("rank", [4, 0])
def test_a_fine_tuned_card(tmp_path: Path, rank: int) -> None:
    card = card_of(tmp_path, config_of(finetuned={**FINETUNED, "lora": rank}))
    shown = msgspec.json.decode(msgspec.json.encode(card))["finetuned"]
    assert shown.pop("from") == {"name": "memes-1234--ViT-B-32-5678", "version": "ba9876543210"}
    assert shown == {"towers": "both", "blocks": 2, "lora": rank, "trained": 12_345} | {
        "learning_rate": 1e-5, "epochs": 6, "best_epoch": 3,
    }  # fmt: skip
    assert msgspec.json.decode(msgspec.json.encode(card), type=ModelCard) == card


def test_a_frozen_card_has_no_fine_tuning(tmp_path: Path) -> None:
    assert b"finetuned" not in msgspec.json.encode(card_of(tmp_path, config_of()))


@pytest.mark.parametrize(
    "part", ["from", "blocks", "towers", "lora", "learning_rate", "epochs", "best_epoch", "trained"]
)
def test_a_fine_tuned_bundle_without_details_is_unusable(tmp_path: Path, part: str) -> None:
    said = {name: value for name, value in FINETUNED.items() if name != part}
    for damaged in (said, FINETUNED | {"from": "a name"}, None):
        with pytest.raises(UnusableBundle, match="is missing or invalid in config.json"):
            card_of(tmp_path, config_of(finetuned=damaged))


@pytest.mark.parametrize(
    ("content", "said"),
    [("{", "not JSON"), ("[]", "expected a JSON object"), ("{}", "'reference') is missing or invalid in metrics.json"),
     ('{"split": "test", "reference": []}', "metrics.json")],
)  # fmt: skip
def test_damaged_metrics_are_an_unusable_bundle(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UnusableBundle, match="JSON|metrics.json") as caught:
        card_of(tmp_path, config_of())
    assert said in str(caught.value)


@pytest.mark.parametrize("part", ["tuning_metrics", "aim", "data", "created", "protocol"])
def test_a_bundle_without_a_shown_value_is_unusable(tmp_path: Path, part: str) -> None:
    config = copy.deepcopy(config_of())
    del config[part]
    with pytest.raises(UnusableBundle, match=rf"'{part}'\) is missing or invalid in config.json"):
        card_of(tmp_path, config)
