"""The blocks of docs/python.md, run one after another as a reader would, on some memes of the demo."""

import csv
import re
import shutil
from pathlib import Path

import pytest
from quick import quick_tuning

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "demo" / "memes"
BLOCKS = re.findall(
    r"^```python\n(.*?)^```", (ROOT / "docs" / "python.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)
_ROWS = 60


def some_memes(folder: Path) -> None:
    """The first rows of each of the demo's tables, and their pictures."""
    for table in DEMO.rglob("*.csv"):
        rows = list(csv.reader(table.read_text("utf-8").splitlines()))[: 1 + _ROWS]
        copy = folder / table.relative_to(DEMO)
        copy.parent.mkdir(parents=True, exist_ok=True)
        with copy.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
        for name, *_ in rows[1:]:
            picture = next(DEMO.rglob(name)).relative_to(DEMO)
            (folder / picture).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(DEMO / picture, folder / picture)


def test_the_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_tuning(monkeypatch)
    some_memes(tmp_path / "demo" / "memes")
    (tmp_path / "demo" / "encoder").symlink_to(ROOT / "demo" / "encoder")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    assert len(BLOCKS) == 7
    for block in BLOCKS:
        exec(compile(block.replace("trials=50", "trials=3"), "docs/python.md", "exec"), scope)  # noqa: S102
    assert scope["image"].shape == (len(scope["rows"]), 64) and scope["image"].dtype == "float32"
    assert list(scope["memes"].columns) == ["id", "split", "label", "image", "text", "vector"]
    assert scope["bundle"].is_dir() and (scope["bundle"] / "report.html").is_file()
    assert 0 < scope["probability"] < 1
    assert scope["judgement"].metrics["split"] == "test"
