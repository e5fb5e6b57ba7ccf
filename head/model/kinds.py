"""The kinds of heads that a bundle can hold, and their JSON descriptions. A new kind is a line in the table."""

from dataclasses import asdict
from typing import Any

from torch import nn

from head.model.forest import ForestConfig, ForestHead
from head.model.fusion import FusionHead, HeadConfig
from head.model.inputs import InputsConfig
from head.model.linear import LinearHead
from head.model.neighbours import NeighbourConfig, NeighbourHead


def _neighbours(space: dict[str, Any], **counts: int) -> NeighbourConfig:
    return NeighbourConfig((InputsConfig if "blocks" in space else HeadConfig)(**space), **counts)


def _forest(inputs: dict[str, Any], **counts: int) -> ForestConfig:
    return ForestConfig(InputsConfig(**inputs), **counts)


_KINDS: dict[str, tuple[type[nn.Module], Any]] = {
    "fusion": (FusionHead, HeadConfig),
    "linear": (LinearHead, InputsConfig),
    "neighbours": (NeighbourHead, _neighbours),
    "forest": (ForestHead, _forest),
}


def describe_head(head: nn.Module) -> dict[str, Any]:
    """A head's kind, config and number of members, as JSON values."""
    kind = next(name for name, (of, _) in _KINDS.items() if isinstance(head, of))
    return {"kind": kind, "head": asdict(head.config), "members": head.members}  # type: ignore[call-overload]


def rebuild_head(part: dict[str, Any]) -> nn.Module:
    """The head of a description by `describe_head`, without its weights; a fusion head where there is no kind, as in old
    bundles. Raises ValueError, KeyError or TypeError for an invalid description."""
    kind = part.get("kind", "fusion")
    if kind not in _KINDS:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    of, config = _KINDS[kind]
    return of(config(**part["head"]), part["members"])


def differentiable(head: nn.Module) -> bool:
    """Whether the head is differentiable in its inputs; nearest neighbours and trees are not."""
    return isinstance(head, (FusionHead, LinearHead))
