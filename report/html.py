"""Renders the Jinja2 templates; all values are escaped, and pages load nothing from outside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from report import words

_FILTERS: tuple[Callable[..., str], ...] = (
    words.point,
    words.interval,
    words.p_words,
    words.percent,
    words.percent_point,
    words.percent_interval,
    words.estimate_percent,
    words.memes,
    words.setting,
    words.settings_line,
)


def render_template(template: str, **values: Any) -> str:
    """Render a template. Raises jinja2.UndefinedError for a missing value."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({function.__name__: function for function in _FILTERS})
    environment.globals.update(metric_names=words.METRIC_NAMES, lower_is_better=words.LOWER_IS_BETTER)
    return environment.get_template(template).render(**values)
