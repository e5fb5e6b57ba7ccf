"""The report page: complete, escaped, self-contained, and rendered for unusual bundles."""

import base64
import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from head.candidates.table import CANDIDATES
from head.judge.metrics import METRICS, measure, read_estimate
from report import charts
from report.costs import CostModel
from report.judged import JudgedBundle
from report.page import render
from report.words import main_methods, methods_table

SHIPPED, REFERENCE = "fusion ensemble", "logistic regression, both"
NAMES = (SHIPPED, "best single head", REFERENCE, "nearest neighbours", "zero-shot prompts", "majority class")
HOSTILE = "<script>alert(1)</script> \"' {{ 7 * 7 }} & $x$"
PIXEL = "data:image/webp;base64,AAAA"


def figure(point: float | None, width: float = 0.08) -> dict[str, Any]:
    return {"point": point, "interval": None if point is None else [point - width, point + width]}


def part(count: int, seed: int, one_class: bool = False, equal: bool = False) -> dict[str, Any]:
    """Predictions of every method on `count` memes."""
    rng = np.random.default_rng(seed)
    label = np.zeros(count, int) if one_class else np.arange(count) % 5 // 3
    probability = {}
    for number, name in enumerate(NAMES):
        signal = 0.0 if equal or name == "majority class" else 1.0 / (1 + number)
        noise = 0.0 if signal == 0 else 1.0
        logits = signal * (2 * label - 1) + noise * rng.normal(size=count)
        probability[name] = (1 / (1 + np.exp(-logits))).tolist()
    ids = [f"meme-{seed}-{number}.png" for number in range(count)]
    groups = [("women", "men", "")[number % 3] for number in range(count)]
    copies = list(range(count))
    return {"ids": ids, "label": label.tolist(), "group": groups, "copies": copies, "probability": probability}


def metrics_of(judged: dict[str, Any], split: str) -> dict[str, Any]:
    """The metrics of the predictions, by `head`."""
    probabilities = {name: np.array(values) for name, values in judged["probability"].items()}
    thresholds = dict.fromkeys(probabilities, 0.5)
    label = np.array(judged["label"])
    figures = measure(label, probabilities, thresholds, np.array(judged["copies"]), 0)
    return {
        "split": split,
        "definition": "A meme is called offensive when its probability is at least the threshold.",
        "reference": REFERENCE,
        "p": 0.123,
        "methods": {
            name: {
                "threshold": 0.5,
                "settings": {"C": 0.1} if name == REFERENCE else {},
                "figures": {metric: figures[name][metric].plain() for metric in METRICS},
            }
            for name in NAMES
        },
        "subgroups": [
            {
                "group": group,
                "memes": 40,
                "offensive": 16,
                "false_positive_rate": figure(0.25),
                "false_negative_rate": figure(0.4),
            }
            for group in ("women", "men")
        ],
        "review": {"coverage": 0.79, "error": figure(0.31)},
        "copies": {"memes": 3, "auroc_without": figure(0.61)},
    }


def history(trials: int) -> list[dict[str, Any]]:
    """Trials with slowly rising values; every fourth one is pruned."""
    rng = np.random.default_rng(trials)
    runs = []
    for trial in range(trials):
        rate = float(10 ** rng.uniform(-5, -2))
        value = 0.6 + 0.05 * (1 - np.exp(-trial / 20)) - 0.02 * (np.log10(rate) + 3.5) ** 2 + 0.02 * rng.normal()
        params = {
            "learning_rate": rate,
            "fusion": ("concat", "align", "cross", "combiner")[int(rng.integers(4))],
            "width": (64, 128, 256)[int(rng.integers(3))],
            "dropout": float(rng.uniform(0, 0.6)),
            "class_weight": bool(rng.integers(2)),
            "depth": int(rng.integers(4)),
            "map_dropout": float(rng.uniform(0, 0.6)),
        }
        state = "pruned" if trial % 4 == 3 else "complete"
        runs.append({"trial": trial, "state": state, "value": float(value), "params": params, "seconds": 0.3})
    return runs


def config_of(trials: int = 40) -> dict[str, Any]:
    runs = history(trials)
    best = max((run for run in runs if run["state"] == "complete"), key=lambda run: run["value"])
    head = {"image_dim": 8, "text_dim": 8, "fusion": "align", "width": 64}
    train = {"optimizer": "adamw", "learning_rate": 0.000731, "loss": {"kind": "bce", "smoothing": 0.1}, "seed": 0}
    return {
        "format": 2,
        "name": "multioff--ViT-L-14",
        "version": "0123456789ab",
        "created": "2025-01-01T00:00:00+00:00",
        "versions": {"python": "3.11.9", "torch": "2.15.0"},
        "seed": 0,
        "labels": ["non-offensive", "offensive"],
        "shipped": SHIPPED,
        "parts": {SHIPPED: [{"head": head, "members": 5, "weight": 2}, {"head": head, "members": 5, "weight": 1}]},
        "calibration": {"kind": "platt", "slope": 0.8123, "offset": -0.2},
        "aim": {"objective": "macro-f1", "target": None},
        "threshold": 0.5,
        "review": {"share": 0.2, "low": 0.45, "high": 0.56, "coverage": 0.8, "error": figure(0.3, 0.05)},
        "encoder": {"model": "ViT-L-14", "pretrained": "openai"},
        "spec": {"model": "ViT-L-14", "dtype": "float32"},
        "data": {
            "source": "data/multioff",
            "index": "multioff--ViT-L-14.h5",
            "fingerprint": "ab" * 32,
            "groups": 583,
            "counts": {"train": {"offensive": 187, "non-offensive": 258}, "test": {"offensive": 58, "non-offensive": 91}},
        },
        "protocol": {"name": "kfold", "folds": 5, "repeats": 1},
        "study": {
            "name": "multioff-12345678",
            "trials": trials,
            "best_trial": best["trial"],
            "best_value": best["value"],
            "sampler": "multivariate TPE",
            "pruner": "median",
            "picks": [
                {"trial": 17, "picked": 2, "head": head, "train": train},
                {"method": "trial 3", "trial": 3, "picked": 1, "head": {**head, "fusion": "cross"}, "train": train},
            ],
            "history": runs,
            "importances": {
                "learning_rate": 0.41, "fusion": 0.22, "dropout": 0.15, "width": 0.1, "depth": 0.06,
                "class_weight": 0.04, "map_dropout": 0.02,
            },
        },
    }  # fmt: skip


def gallery_of(judged: dict[str, Any], count: int = 12) -> dict[str, Any]:
    def near(number: int) -> dict[str, Any]:
        return {
            "id": f"near-{number}",
            "image": f"near/{number}.png",
            "text": "a caption " * (number + 1),
            "label": number % 2,
            "similarity": 0.9 - 0.1 * number,
        }

    return {
        "data": "data/multioff",
        "mistakes": [
            {
                "id": judged["ids"][number],
                "image": f"img/{number}.png",
                "text": "when the meme is too long to read " * number,
                "label": judged["label"][number],
                "probability": 0.97 - 0.01 * number,
                "neighbours": [near(other) for other in range(3)],
            }
            for number in range(count)
        ],
    }


def bundle(count: int = 149, trials: int = 40, **odd: bool) -> dict[str, Any]:
    """The values of a bundle's files, as `render` takes them."""
    judged = part(count, 0, **odd)
    gallery = gallery_of(judged, min(12, count))
    return {
        "config": config_of(trials),
        "metrics": metrics_of(judged, "test"),
        "predictions": {"tuning": part(60, 1), "test": judged},
        "gallery": gallery,
        "nested": None,
        "pictures": {mistake["image"]: PIXEL for mistake in gallery["mistakes"]},
        "readings": [
            {"bundle": f"b{number}", "version": "0", "date": f"2025-0{number}-01", "memes": 149} for number in (1, 2, 2)
        ],
        "cost_model": CostModel(),
    }


def nested_of() -> dict[str, Any]:
    folds = [{"memes": 30, "auroc": dict.fromkeys(NAMES, 0.6)}, {"memes": 29, "auroc": dict.fromkeys(NAMES)}]
    return {**metrics_of(part(60, 1), "nested"), "folds": folds, "trials": 40, "fingerprint": "ab" * 32}


def write_bundle(folder: Path, values: dict[str, Any]) -> Path:
    """Write the bundle's JSON files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config", "metrics", "predictions", "gallery"):
        if values[name] is not None:
            (folder / f"{name}.json").write_text(json.dumps(values[name]), encoding="utf-8")
    return folder


class _Outline(HTMLParser):
    """The tags with their attributes, and the text outside the style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._in_style = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def images(self) -> dict[str, str]:
        return {str(attrs["alt"]): str(attrs["src"]) for tag, attrs in self.tags if tag == "img"}


def rendered(values: dict[str, Any]) -> str:
    names = ("config", "metrics", "predictions", "gallery", "nested", "readings")
    return render(JudgedBundle(*(values[name] for name in names)), values["pictures"], values["cost_model"])


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    return bundle()


@pytest.fixture(scope="module")
def page(values: dict[str, Any]) -> str:
    """The rendered page of `values`."""
    return rendered(values)


@pytest.fixture
def ours(values: dict[str, Any]) -> dict[str, Any]:
    """A copy of `values` to change."""
    return copy.deepcopy(values)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the plots, which take nearly all the time, by an empty one."""
    for name in ("roc", "precision_recall", "reliability", "threshold", "history", "importance", "slice"):
        monkeypatch.setattr(charts, f"{name}_chart", lambda *given: "data:image/svg+xml;base64,")


def test_the_page_has_every_metric_with_its_interval_and_one_p(values: dict[str, Any], page: str) -> None:
    text = _Outline(page).text
    for method in values["metrics"]["methods"].values():
        for figures in method["figures"].values():
            assert str(read_estimate(figures)) in text
    assert text.count("p 0.123") == 2  # in the verdict and under the table
    for word in ("fusion ensemble shipped", "logistic regression, both reference", "Brier score lower is better"):
        assert word in text


def test_the_page_describes_data_protocol_and_provenance(page: str) -> None:
    text = _Outline(page).text
    for words in (
        "the test split: 149 memes, 59 offensive",
        "used 3 times, for 2 bundles, from 2025-01-01 to 2025-02-01: the best of several results is optimistic",
        "5-fold cross-validation on train and validation, near-duplicates in one fold",
        "fusion ensemble, 10 heads of 2 methods",
        "0.500, chosen for the highest macro-F1",
        "from 0.450 to 0.560: a person decides",
        "memes answered 80.0 % 79.0 %",
        "3 memes of those evaluated have near-duplicates",
        "ab" * 32,
        "583 groups",
        "picked 2 times; image_dim 8, text_dim 8, fusion align, width 64, optimizer adamw",
        "learning_rate 0.000731, loss.kind bce",
        "platt, slope 0.8123, offset -0.2",
        "python 3.11.9, torch 2.15.0",
        "40 trials: 30 complete, 10 pruned",
    ):
        assert words in text, words


def test_the_confusion_matrix_counts_each_meme_once(values: dict[str, Any], page: str) -> None:
    text = _Outline(page).text
    found = re.search(r"called non-offensive labelled offensive(.*?)labelled non-offensive(.*?) The review band", text)
    assert found
    judged = values["predictions"]["test"]
    for row, label in zip(found.groups(), (1, 0), strict=True):
        p = [value for value, its in zip(judged["probability"][SHIPPED], judged["label"]) if its == label]
        review = sum(0.45 <= value < 0.56 for value in p)
        called = sum(value >= 0.56 for value in p)
        assert [int(count) for count in re.findall(r"(\d+) [\d.]+ %", row)] == [
            called,
            review,
            len(p) - called - review,
        ]


def test_values_from_the_data_are_escaped(ours: dict[str, Any]) -> None:
    ours["config"] |= {"name": HOSTILE, "spec": {HOSTILE: HOSTILE}, "versions": {HOSTILE: HOSTILE}}
    ours["config"]["data"]["source"] = HOSTILE
    ours["config"]["study"]["importances"] = {HOSTILE: 1.0}
    ours["metrics"]["subgroups"][0]["group"] = HOSTILE
    ours["metrics"]["definition"] = HOSTILE
    meme = ours["gallery"]["mistakes"][0]
    for one in (meme, meme["neighbours"][0]):
        one |= {"id": HOSTILE, "text": HOSTILE}
    meme["image"] = HOSTILE
    page = rendered(ours)
    outline = _Outline(page)
    assert "<script" not in page and not any(tag == "script" for tag, _ in outline.tags)
    assert not any(name.startswith("on") for _, attrs in outline.tags for name in attrs)
    assert outline.text.count(HOSTILE) >= 8


def test_the_page_loads_nothing_from_outside(ours: dict[str, Any]) -> None:
    ours["gallery"]["mistakes"][0]["text"] = "see http://example.org"
    page = rendered(ours)
    outline = _Outline(page)
    sources = [
        attrs[name] for _, attrs in outline.tags for name in ("src", "href", "srcset", "action") if name in attrs
    ]
    assert sources and all(str(source).startswith("data:image/") for source in sources)
    assert not {tag for tag, _ in outline.tags} & {"script", "link", "iframe", "object", "form", "svg"}
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style and "@import" not in style
    assert "default-src 'none'" in page
    drawings = [source for source in outline.images().values() if "svg" in source]
    assert len(drawings) == 5 + 2 + 6
    for source in drawings:
        svg = base64.b64decode(source.partition(",")[2]).decode()
        assert set(re.findall(r'href="(.)', svg)) <= {"#"}


def test_the_same_bundle_gives_the_same_bytes(values: dict[str, Any], page: str) -> None:
    assert page == rendered(copy.deepcopy(values))


@pytest.mark.usefixtures("undrawn")
def test_pictures_are_shown_and_a_missing_one_leaves_a_box(ours: dict[str, Any]) -> None:
    del ours["pictures"]["img/0.png"]
    page = _Outline(rendered(ours))
    shown = [source for source in page.images().values() if source == PIXEL]
    assert len(shown) == 11
    assert page.text.count("no picture") == 1 + 36
    ours["pictures"] = {}
    assert "no longer in data/multioff" in _Outline(rendered(ours)).text


@pytest.mark.usefixtures("undrawn")
def test_long_texts_are_collapsed_and_missing_ones_marked(ours: dict[str, Any]) -> None:
    ours["gallery"]["mistakes"] = ours["gallery"]["mistakes"][:2]
    ours["gallery"]["mistakes"][0]["text"] = "word " * 1000
    ours["gallery"]["mistakes"][1]["text"] = ""
    text = _Outline(rendered(ours)).text
    assert "(all 5,000 characters)" in text and text.count("word") == 1000
    assert "no text" in text


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"count": 8, "trials": 1}, "1 trial: 1 complete, 0 pruned"),
        ({"one_class": True}, "of one class only"),
        ({"equal": True}, "the test split: 149 memes"),
        ({"trials": 1000}, "1,000 trials: 750 complete, 250 pruned"),
    ],
)
def test_an_unusual_bundle_is_rendered(odd: dict[str, Any], said: str) -> None:
    assert said in _Outline(rendered(bundle(**odd))).text


def test_undefined_metrics_are_shown_as_n_a() -> None:
    page = _Outline(rendered(bundle(one_class=True)))
    assert page.text.count("n/a") >= 2 * len(NAMES)
    assert {"ROC curves", "Precision and recall", "Metrics by threshold"}.isdisjoint(page.images())
    assert "Reliability of the fusion ensemble" in page.images()


def test_a_search_without_importances(ours: dict[str, Any]) -> None:
    ours["config"]["study"] |= {"importances": {}, "history": history(1)}
    page = _Outline(rendered(ours))
    assert "too few or too similar" in page.text
    assert "Importance of the parameters" not in page.images()
    assert not any(name.startswith("AUROC against") for name in page.images())


def test_trials_with_missing_values_and_parameters_are_drawn(ours: dict[str, Any]) -> None:
    runs = ours["config"]["study"]["history"]
    for run in runs:
        run["value"] = None if run["state"] == "pruned" else run["value"]
        if run["trial"] % 3:
            del run["params"]["fusion"]
    runs[0]["params"]["width"] = None
    assert "AUROC against fusion" in _Outline(rendered(ours)).images()
    for run in runs:
        run["value"] = None
    page = _Outline(rendered(ours))
    assert "No trial reached a value" in page.text and "History" not in page.images()


@pytest.mark.usefixtures("undrawn")
def test_sections_without_content_are_empty_or_missing(ours: dict[str, Any]) -> None:
    ours["config"]["review"] = ours["metrics"]["review"] = None
    ours["metrics"] |= {"subgroups": [], "copies": {"memes": 0, "auroc_without": figure(0.6)}}
    ours["gallery"]["mistakes"] = []
    text = _Outline(rendered(ours)).text
    assert "review" not in text and "Subgroups" not in text
    assert (
        "No meme was evaluated by a head that was trained on a near-duplicate of it" in text
        and "made no mistake" in text
    )
    ours["gallery"] = None
    assert "There is no gallery" in _Outline(rendered(ours)).text


@pytest.mark.usefixtures("undrawn")
def test_twenty_subgroups_are_twenty_rows(ours: dict[str, Any]) -> None:
    row = ours["metrics"]["subgroups"][0]
    ours["metrics"]["subgroups"] = [
        {**row, "group": f"group {number}", "false_negative_rate": figure(None)} for number in range(20)
    ]
    text = _Outline(rendered(ours)).text
    assert all(f"group {number} 40 16" in text for number in range(20))
    assert "25.0 % [17.0, 33.0] n/a" in text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("split", "said"), [("test", "on all of train and validation"), ("tuning", "the unbiased ones")]
)
def test_nested_cross_validation_section(ours: dict[str, Any], split: str, said: str) -> None:
    ours["nested"] = nested_of()
    ours["metrics"]["split"] = split
    text = _Outline(rendered(ours)).text
    assert said in text
    assert "AUROC in each outer fold" in text and "2 29 n/a n/a" in text


@pytest.mark.usefixtures("undrawn")
def test_official_protocol_and_a_shipped_baseline(ours: dict[str, Any]) -> None:
    ours["config"] |= {
        "shipped": REFERENCE,
        "protocol": {"name": "official", "folds": 5, "repeats": 1},
        "aim": {"objective": "recall", "target": 0.9},
    }
    text = _Outline(rendered(ours)).text
    assert "logistic regression, both shipped reference" in text
    assert "trained on train, chosen on validation" in text and "a recall of at least 0.9" in text
    assert "ships logistic regression, both threshold" in text


def finetuned() -> dict[str, Any]:
    """The values of a fine-tuned bundle."""
    values = bundle()
    config, metrics = values["config"], values["metrics"]
    config["protocol"] = {"name": "official", "folds": 5, "repeats": 1}
    config["study"]["protocol"] = {"name": "kfold", "folds": 5, "repeats": 1}
    config["finetuned"] = {
        "from": {"name": "the one before", "version": "ba9876543210"},
        "blocks": 2,
        "towers": "image",
        "lora": 8,
        "learning_rate": 1e-5,
        "epochs": 10,
        "best_epoch": 1,
        "history": [
            {"epoch": 0, "train_loss": None, "validation_loss": 0.6, "validation_auroc": 0.7},
            {"epoch": 1, "train_loss": 0.5, "validation_loss": 0.5, "validation_auroc": 0.8},
        ],
        "trained": 1234567,
        "seconds": 60.0,
        "memes_per_second": 12.3,
        "frozen_index": "before.h5",
        "frozen_fingerprint": "cd" * 32,
    }
    metrics["frozen"] = {"reference": "best single head", "p": 0.456}
    return values


def test_fine_tuning_section() -> None:
    page = _Outline(rendered(finetuned()))
    assert "Losses" in page.images() and "p 0.456" in page.text
    words = (
        "the last 2 blocks of the image tower by LoRA of rank 8, and the heads of the one before, version ba9876543210"
    )
    assert words in page.text and "1,234,567 weights at a learning rate of 1e-05, epoch 1 of 1 kept" in page.text
    assert "Of the one before, before fine-tuning. 40 trials" in page.text
    assert "The cross-validated AUROC against" in page.text and "official: trained on train" in page.text


def test_no_fine_tuning_section_for_a_frozen_encoder(page: str) -> None:
    assert "ine-tun" not in page


@pytest.mark.usefixtures("undrawn")
def test_candidates_beyond_the_best_are_collapsed_but_never_the_shipped_one(ours: dict[str, Any]) -> None:
    methods, candidates = ours["metrics"]["methods"], list(CANDIDATES)
    for place, name in enumerate(candidates):
        methods[name] = {
            **methods[REFERENCE],
            "figures": {**methods[REFERENCE]["figures"], "auroc": figure(0.9 - place / 100)},
        }
        ours["predictions"]["test"]["probability"][name] = ours["predictions"]["test"]["probability"][REFERENCE]
    ours["config"]["methods"] = methods
    ours["config"]["shipped"] = ours["metrics"]["reference"] = candidates[-1]
    shown = main_methods(candidates[-1], ours["metrics"])
    assert [name for name in shown if name in CANDIDATES] == [*candidates[:3], candidates[-1]]
    assert {SHIPPED, "best single head", "majority class"} <= set(shown)
    page = rendered(ours)
    first, folded = page.split(f"{len(candidates) - 4} more methods, none with a higher AUROC", 1)
    for name in candidates[3:-1]:
        assert f'<th scope="row">{name}</th>' not in first and f'<th scope="row">{name}</th>' in folded
    assert f"and {len(candidates) - 4} more on the page" in methods_table(ours["config"], ours["metrics"])


@pytest.mark.usefixtures("undrawn")
def test_recipes_are_shown_with_their_values_and_differences(ours: dict[str, Any]) -> None:
    study = ours["config"]["study"]
    study["history"][0] |= {"recipe": "RGCL", "value": 0.61}
    study["history"][1] |= {"recipe": "MemeCLIP", "value": None}
    text = _Outline(rendered(ours)).text
    assert "RGCL 0.610; MemeCLIP diverged." in text and "Unlike in their papers" in text


@pytest.mark.usefixtures("undrawn")
def test_a_candidate_in_the_ensemble_is_shown(ours: dict[str, Any]) -> None:
    ours["config"]["study"]["picks"] = [{"method": "random forest", "picked": 3}]
    assert "random forest picked 3 times" in _Outline(rendered(ours)).text
