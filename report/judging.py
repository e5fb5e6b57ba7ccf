"""Evaluates a bundle on the test split, once, and writes its page: what `make report` does, without output."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from jinja2 import UndefinedError

from cache import Layout, write_bytes_atomically
from head.bundle.evaluation import evaluate_bundle
from head.bundle.format import UnusableBundle, read_part
from head.bundle.readings import read_readings
from report.costs import CostModel
from report.judged import JudgedBundle, read_judged
from report.page import render
from report.pictures import thumbnails

# Raised when a value is missing or has another type.
_DAMAGED = (KeyError, IndexError, TypeError, AttributeError, UndefinedError)


def judge(
    bundle: Path,
    artifacts: Path = Path("artifacts"),
    cost_model: CostModel | None = None,
    say: Callable[[str], None] = print,
) -> JudgedBundle:
    """Evaluate the bundle, if that was not done before, and write `page_path(bundle)`.

    cost_model: of the place where it is used, None for equal costs; say: takes notes. Raises UnusableBundle and what
    `head.bundle.evaluation.evaluate_bundle` raises.
    """
    evaluate_bundle(bundle, artifacts, say)
    judged = replace(read_judged(bundle), gallery=read_part(bundle, "gallery.json"))
    with damage_named(bundle):
        judged = replace(
            judged, nested=_nested(judged.config, artifacts), readings=read_readings(artifacts, judged.config)
        )
        page = render(judged, _pictures(judged.gallery), cost_model or CostModel())
    write_page(page_path(bundle), page)
    return judged


def page_path(bundle: Path) -> Path:
    """Where the page of a bundle stands."""
    return bundle / "report.html"


@contextmanager
def damage_named(bundle: Path | str) -> Iterator[None]:
    """Turns the errors of missing and unfit values into UnusableBundle, which names the bundle."""
    try:
        yield
    except _DAMAGED as error:
        raise UnusableBundle(
            f"{bundle}: a JSON file of the bundle is damaged ({error!r}); run `python -m head tune` again"
        ) from error


def _nested(config: dict, artifacts: Path) -> dict | None:
    """The result of `python -m head nested` on the same memes and embeddings; None if there is none."""
    data = config["data"]
    found = read_part(Layout(artifacts).nested(Path(data["index"]).stem), "nested.json")
    return found if found is not None and found["fingerprint"] == data["fingerprint"] else None


def _pictures(gallery: dict | None) -> dict[str, str]:
    if gallery is None:
        return {}
    memes = [meme for mistake in gallery["mistakes"] for meme in (mistake, *mistake["neighbours"])]
    memes += gallery.get("suspects", [])
    return thumbnails(
        gallery["data"], [meme["image"] for meme in memes], gallery.get("images", ""), gallery.get("links", "")
    )


def write_page(path: Path, page: str) -> None:
    """Write the page as UTF-8; surrogates (bytes of file names that are not UTF-8) are escaped. Raises OSError."""
    write_bytes_atomically(path, page.encode("utf-8", "backslashreplace"))
