"""The store of a run's encoder, with or without loading the encoder for its spec."""

from collections.abc import Callable
from typing import Any

from cache import DatasetIndex, VectorStore, spec_id
from embed.clip.options import EncoderOptions, older_spec, precision_of
from embed.clip.recall import recall_spec, remember_spec
from embed.engines.local import Engine
from embed.plan.earlier import changed_fields
from embed.plan.settings import EmbedSettings
from embed.plan.wanted import Wanted


def open_store(settings: EmbedSettings, engine: Engine, wanted: Wanted) -> tuple[VectorStore, bool]:
    """The store of the encoder's spec, and whether it lacks a vector.

    The spec remembered from an earlier run is used while no vector is missing; else the encoder is loaded for its spec.
    """
    layout = settings.layout

    def load() -> dict[str, Any]:
        spec, weights = engine.load()
        remember_spec(layout.encoders, settings.encoder, spec, weights)
        return spec

    recalled = recall_spec(layout.encoders, settings.encoder)
    if recalled and not _is_preferred(settings.options, recalled):
        recalled = None
    store = VectorStore(layout.vectors, recalled or load())
    lacking = wanted.count(store) > 0
    if recalled and lacking and (spec := load()) != recalled:
        store = VectorStore(layout.vectors, spec)
        lacking = wanted.count(store) > 0
    return store, lacking


def _is_preferred(options: EncoderOptions, spec: dict[str, Any]) -> bool:
    """Whether a spec remembered for PRECISION=auto has the precision that auto now means."""
    return options.prefer in ("", precision_of(spec))


def may_adopt(store: VectorStore) -> bool:
    """Whether there is a store of the same encoder's older spec."""
    older = older_spec(store.spec)
    return older != store.spec and (store.folder.parent / spec_id(older)).is_dir()


def report_change(settings: EmbedSettings, earlier: DatasetIndex | None, store: VectorStore, wanted: Wanted) -> str:
    """That the encoder is not the earlier index's, and how many vectors that costs; "" if it is."""
    fields = changed_fields(earlier, store.spec) if earlier is not None else ""
    if earlier is None or not fields:
        return ""
    made, total = wanted.count(store), sum(map(len, wanted.kinds.values()))
    return f"{settings.index} was made with another encoder ({fields}): {made} of {total} vectors have to be made"


def report_damage(store: VectorStore, say: Callable[[str], None]) -> None:
    """Say which segments are damaged, and move them aside. Call locked."""
    for name in store.damaged:
        say(
            f"{store.folder / name} is damaged or missing; its rows are made again (a damaged file is kept as {name}.damaged)"
        )
    if store.damaged:
        store.forget_damaged()
