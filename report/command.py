"""Run `report` and `report compare` and print their results, for the command line; imports torch and matplotlib."""

import re
import sys
from pathlib import Path

from head.bundle.format import demo_notice_of
from head.judge.verdict import verdict
from report import words
from report.compare import compare_bundles, comparison_summary, comparison_table, render_comparison
from report.costs import CostModel
from report.judged import read_judged
from report.judging import damage_named, judge, page_path, write_page

# Characters of a bundle's name in a file name, which may have 255 bytes.
_LONGEST_NAME = 50


def run_report(folder: Path, artifacts: Path, cost_model: CostModel) -> None:
    """Evaluate a bundle, print its metrics and where the page is. Raises what `report.judging.judge` raises."""
    judged = judge(folder, artifacts, cost_model, lambda note: print(note, file=sys.stderr))
    print(f"{words.methods_table(judged.config, judged.metrics)}\n\n* shipped")
    if judged.metrics["split"] == "test" and judged.readings:
        print(f"The test split has been {words.readings_words(judged.readings)}.")
    print("The report has the other metrics and all intervals.")
    paragraphs = (verdict(judged.config, judged.metrics), demo_notice_of(judged.config), f"report  {page_path(folder)}")
    print("\n" + "\n\n".join(filter(None, paragraphs)))


def run_compare(first_folder: Path, second_folder: Path) -> None:
    """Compare two bundles, print the metrics and where the page is. Raises ValueError for damaged ones, OSError."""
    first, second = read_judged(first_folder), read_judged(second_folder)
    with damage_named(f"{first_folder}, {second_folder}"):
        comparison = compare_bundles(first, second)
        page = render_comparison(first, second, comparison)
    # The name from config.json becomes part of a path.
    name = re.sub(r"[^\w.-]", "_", second.config["name"])[-_LONGEST_NAME:]
    path = first_folder / f"compare-{name}.html"
    write_page(path, page)
    notice = demo_notice_of(first.config) or demo_notice_of(second.config)
    paragraphs = (comparison_table(comparison), comparison_summary(comparison), notice, f"page  {path}")
    print("\n\n".join(filter(None, paragraphs)))
