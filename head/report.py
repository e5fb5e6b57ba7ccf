"""The report of a bundle: one HTML file that needs nothing beside it.

Reads config.json and predictions.json only, so it never looks at the data again. `python -m head report [BUNDLE]`.
"""

import json
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cache import write_bytes_atomically
from head.bundle import UnusableBundle, load_bundle, read_predictions
from head.charts import history_chart, reliability_chart, roc_chart
from head.evaluate import HEAD, read_estimate, verdict
from head.metrics import METRICS

HEADINGS = {"accuracy": "accuracy", "f1_offensive": "F1 offensive", "macro_f1": "macro-F1", "auroc": "AUROC"}


def write_report(folder: Path) -> Path:
    """Write `folder`/report.html and return its path. Raises UnusableBundle."""
    config, predictions = load_bundle(folder).config, read_predictions(folder)
    try:
        page = _page(config, predictions[config["metrics"]["split"]])
    except (KeyError, TypeError) as error:
        raise UnusableBundle(
            f"{folder}: config.json or predictions.json lacks {error}; run `python -m head tune` again"
        ) from error
    path = folder / "report.html"
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))
    return path


def _page(config: dict[str, Any], memes: dict[str, Any]) -> str:
    label = np.array(memes["label"])
    probabilities = {name: np.array(values) for name, values in memes["probability"].items()}
    split, threshold = config["metrics"]["split"], config["threshold"]
    parts = [
        f'<p class="verdict">{escape(verdict(config["metrics"]))}</p>',
        f"<h2>Methods on {escape(split)}, {len(label)} memes</h2>",
        _methods(config["metrics"]),
        f'<p class="note">{escape(config["metrics"]["definition"])}</p>',
        '<div class="pair">',
        _figure("ROC curves", roc_chart(label, probabilities), "On the diagonal: guessing."),
        _figure("Reliability of the head", reliability_chart(label, probabilities[HEAD]), _RELIABILITY),
        "</div>",
        f"<h2>What the head called offensive, at threshold {threshold:.3f}</h2>",
        _confusion(label, probabilities[HEAD] >= threshold),
        _figure("The search", history_chart(config["study"]["history"]), _search(config["study"])),
        "<h2>What made it</h2>",
        _facts(config),
        f"<details><summary>The whole feature spec</summary><pre>{escape(_pretty(config['spec']))}</pre></details>",
    ]
    title = escape(f"Fusion head {config['name']}")
    return _TEMPLATE.replace("{title}", title).replace("{body}", "\n".join(parts))


def _methods(metrics: dict[str, Any]) -> str:
    head = "".join(f"<th>{escape(HEADINGS[metric])}</th>" for metric in METRICS)
    rows = []
    for name, figures in metrics["methods"].items():
        cells = "".join(f"<td>{_cell(figures[metric])}</td>" for metric in METRICS)
        kind = ' class="ours"' if name == HEAD else ""
        rows.append(f"<tr{kind}><th>{escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'


def _cell(figure: dict[str, Any]) -> str:
    point, _, interval = str(read_estimate(figure)).partition(" ")
    return f"{escape(point)} <small>{escape(interval)}</small>"


def _confusion(label: np.ndarray, called: np.ndarray) -> str:
    rows = []
    for value, name in ((1, "offensive"), (0, "non-offensive")):
        hit, miss = int((called[label == value]).sum()), int((~called[label == value]).sum())
        rows.append(f"<tr><th>labelled {name}</th><td>{hit}</td><td>{miss}</td></tr>")
    return (
        '<div class="wide"><table><tr><th></th><th>called offensive</th><th>called non-offensive</th></tr>'
        f"{''.join(rows)}</table></div>"
    )


def _search(study: dict[str, Any]) -> str:
    return (
        f"{study['trials']} trials; the best, number {study['best_trial']}, has a validation AUROC of "
        f"{study['best_value']:.3f}. The best of many is chosen on the memes that it is measured on: optimistic."
    )


def _facts(config: dict[str, Any]) -> str:
    facts = {
        "bundle": f"{config['name']}, version {config['version']}, made {config['created']}",
        "encoder": " ".join(value for value in config["encoder"].values() if value),
        "data": f"{config['data']['source']}, fingerprint {config['data']['fingerprint'][:12]}",
        "memes": _counts(config["data"]["counts"]),
        "head": settings_line(config["head"]),
        "training": settings_line(config["train"]),
        "study": f"{config['study']['name']}, {config['study']['trials']} trials, seed {config['seed']}",
        "versions": settings_line(config["versions"]),
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>"


def _counts(counts: dict[str, dict[str, int]]) -> str:
    parts = {split: ", ".join(f"{count} {label}" for label, count in part.items()) for split, part in counts.items()}
    return "; ".join(f"{split} {part}" for split, part in parts.items())


def settings_line(values: dict[str, Any]) -> str:
    """Names and values in one line, numbers short."""
    return ", ".join(f"{n} {v:.3g}" if isinstance(v, float) else f"{n} {v}" for n, v in values.items())


def _pretty(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True)


def _figure(title: str, source: str, caption: str) -> str:
    name = escape(title)
    picture = f'<img src="{source}" alt="{name}">'
    return f"<figure><h2>{name}</h2>{picture}<figcaption>{escape(caption)}</figcaption></figure>"


_RELIABILITY = "Bins of equal numbers of memes, bars 95 %. On the diagonal, a probability means what it says."

_TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 60rem; font: 16px/1.5 system-ui, sans-serif;
       color: #1c2530; background: #fff; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
.verdict { font-size: 1.1rem; margin: 0; padding: .9rem 1.1rem; background: #eef4f9; border-left: .3rem solid #0072b2; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .6rem; text-align: right; border-bottom: 1px solid #dde3e9; }
th { font-weight: 600; }
tr > th:first-child { text-align: left; font-weight: normal; }
tr.ours > * { background: #eef4f9; font-weight: 600 !important; }
td small { color: #556270; font-weight: normal; white-space: nowrap; }
.note, figcaption { color: #556270; font-size: .875rem; }
.pair { display: grid; gap: 0 2rem; grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; break-inside: avoid; }
img { display: block; width: 100%; max-width: 36rem; height: auto; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; }
dt { color: #556270; }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
details { margin-top: 1.2rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8rem; }
@media (max-width: 40rem) { td small { display: block; } th, td { padding: .4rem .35rem; font-size: .875rem; } }
@media print { body { max-width: none; padding: 0; font-size: 11pt; } * { print-color-adjust: exact; } }
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
