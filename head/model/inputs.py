"""Inputs of a head: the vector of either side, and their agreement in the space that both share.

CLIP maps pictures and texts to one space, where column k of both sides has the same meaning. So both sides are rotated
together or not at all; each is centred at its own mean, since the two lie in separate cones (the modality gap: Liang et
al., "Mind the Gap", 2022).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from head.model.scaling import deviation, principal_axes

BLOCKS = ("image", "text", "product", "difference", "cosine")
AGREEMENT = BLOCKS[2:]
# Wider than any encoder's vectors: beyond it config.json is damaged.
_WIDEST = 1 << 20
# Most rows for means and standard deviations; more hardly change them.
_MOST_ROWS = 8192


@dataclass(frozen=True)
class InputsConfig:
    """image_dim, text_dim: widths of the vectors, whose last `joint` columns lie in the shared space; blocks: some of BLOCKS;
    centred: whether each side is centred at the mean of the member's train memes and normalised again; standard: whether
    columns are then standardised. Raises ValueError for values out of range.
    """

    image_dim: int
    text_dim: int
    joint: int
    blocks: tuple[str, ...]
    centred: bool = True
    standard: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", tuple(self.blocks))  # JSON has lists
        check_widths(self.image_dim, self.text_dim, self.joint)
        if not self.blocks or not set(self.blocks) <= set(BLOCKS):
            raise ValueError(f"blocks: expected some of {', '.join(BLOCKS)}, got {self.blocks!r}")
        if self.agrees and not self.joint:
            raise ValueError(f"blocks: {self.blocks!r} need sides that share a space, and joint is 0")

    @property
    def agrees(self) -> bool:
        """Whether a block needs the shared space."""
        return agreement_among(self.blocks)

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that are read: "image", "text" or both."""
        return tuple(side for side in ("image", "text") if self.agrees or side in self.blocks)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of columns of each block."""
        width = {
            "image": own_width(self.image_dim, self.joint),
            "text": own_width(self.text_dim, self.joint),
            "product": self.joint,
            "difference": self.joint,
            "cosine": 1,
        }
        return tuple(width[block] for block in self.blocks)


class Inputs(nn.Module):
    """M members' blocks, concatenated, (N, Di) and (N, Dt) -> (M, N, W).

    image, text: the side's own columns at unit length; product, difference, cosine: element-wise product, absolute
    difference and cosine of the joint columns.
    """

    mean: Tensor  # (M, 1, W)
    std: Tensor  # (M, 1, W)

    def __init__(self, config: InputsConfig, members: int) -> None:
        super().__init__()
        self.config, self.members = config, members
        for name, width in _side_widths(config).items():
            self.register_buffer(f"centre_{name}", torch.zeros(members, 1, width))
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((members, 1, sum(config.widths)), value))

    @torch.no_grad()
    def fit(self, image: Tensor, text: Tensor, rows: Sequence[Tensor]) -> "Inputs":
        """Fit each member to its rows of the (N, Di) and (N, Dt) vectors; a constant column is only centred."""
        for member, chosen in enumerate(rows):
            chosen = thinned(chosen, _MOST_ROWS)
            if self.config.centred:
                for name, unit in self._units(image[chosen], text[chosen]).items():
                    self.get_buffer(f"centre_{name}")[member, 0] = unit.mean(dim=0)
            if self.config.standard:
                columns = self._columns(self._units(image[chosen], text[chosen]), member)
                self.mean[member, 0], self.std[member, 0] = columns.mean(dim=0), deviation(columns)
        return self

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        return torch.stack(list(self.by_member(image, text)))

    embed_vectors = forward

    def by_member(self, image: Tensor, text: Tensor) -> Iterator[Tensor]:
        """Yields each member's inputs, (N, W): those of all members at once can be large."""
        units = self._units(image, text)
        for member in range(self.members):
            yield self._standardised(units, member)

    def of_member(self, image: Tensor, text: Tensor, member: int) -> Tensor:
        """One member's inputs, (N, W)."""
        return self._standardised(self._units(image, text), member)

    def _standardised(self, units: dict[str, Tensor], member: int) -> Tensor:
        columns = self._columns(units, member)
        return (columns - self.mean[member]) / self.std[member] if self.config.standard else columns

    def _units(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """{name: (N, D)}: the vectors' columns that the blocks use, at unit length."""
        config = self.config
        parts = {
            "image": lambda: own_columns(image, config.joint),
            "text": lambda: own_columns(text, config.joint),
            "joint_image": lambda: image[:, -config.joint :],
            "joint_text": lambda: text[:, -config.joint :],
        }
        return {name: F.normalize(parts[name](), dim=-1) for name in _side_widths(config)}

    def _columns(self, units: dict[str, Tensor], member: int) -> Tensor:
        if self.config.centred:
            units = {
                name: F.normalize(unit - self.get_buffer(f"centre_{name}")[member], dim=-1)
                for name, unit in units.items()
            }
        return torch.cat([_block(block, units) for block in self.config.blocks], dim=-1)


class Agreement(nn.Module):
    """Agreement of the sides, for M members, (N, J) twice -> (M, N, 2 K + 1): product and absolute difference of K principal
    components of the joint space, and the cosine in all of it.

    Both sides share one rotation, fitted to both, so that components correspond. Product, difference and cosine are each
    scaled to a total variance of 1.
    """

    centre: Tensor  # (2, M, 1, J)
    rotation: Tensor  # (M, J, K)
    mean: Tensor  # (M, 1, 2 K + 1)
    std: Tensor  # (M, 1, 2 K + 1)

    def __init__(self, members: int, joint: int, components: int, centred: bool) -> None:
        super().__init__()
        self._centred = centred
        self.register_buffer("centre", torch.zeros(2, members, 1, joint))
        self.register_buffer("rotation", torch.zeros(members, joint, components))
        for name, value in (("mean", 0.0), ("std", 1.0)):
            self.register_buffer(name, torch.full((members, 1, 2 * components + 1), value))

    @torch.no_grad()
    def fit(self, image: Tensor, text: Tensor, rows: Sequence[Tensor]) -> "Agreement":
        """Fit each member to its rows of the (N, J) joint columns of either side."""
        count = self.rotation.shape[-1]
        for member, chosen in enumerate(rows):
            chosen = thinned(chosen, _MOST_ROWS)
            units = [F.normalize(side[chosen], dim=-1) for side in (image, text)]
            if self._centred:
                self.centre[:, member, 0] = torch.stack([unit.mean(dim=0) for unit in units])
            sides = torch.cat(self._sides(units, member))
            self.rotation[member] = principal_axes(sides - sides.mean(dim=0), count)[0]
            columns = self._columns(units, member)
            spread = deviation(columns)
            blocks = [part.square().sum().sqrt().clamp(min=1e-6).expand(len(part)) for part in spread.split(count)]
            self.mean[member, 0], self.std[member, 0] = columns.mean(dim=0), torch.cat(blocks)
        return self

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        units = [F.normalize(side, dim=-1) for side in (image, text)]
        members = range(len(self.rotation))
        return torch.stack([(self._columns(units, m) - self.mean[m]) / self.std[m] for m in members])

    def _sides(self, units: Sequence[Tensor], member: int) -> list[Tensor]:
        if not self._centred:
            return list(units)
        return [F.normalize(unit - self.centre[side, member], dim=-1) for side, unit in enumerate(units)]

    def _columns(self, units: Sequence[Tensor], member: int) -> Tensor:
        image, text = self._sides(units, member)
        cosine = (image * text).sum(dim=-1, keepdim=True)
        image, text = image @ self.rotation[member], text @ self.rotation[member]
        return torch.cat((image * text, (image - text).abs(), cosine), dim=-1)


def thinned(rows: Tensor, most: int) -> Tensor:
    """At most `most` of the (N,) rows, in order, drawn with a fixed seed: every k-th row would have one label where labels
    alternate."""
    if len(rows) <= most:
        return rows
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most].sort().values
    return rows[drawn.to(rows.device)]


def agreement_among(blocks: Sequence[str]) -> bool:
    """Whether some of the blocks need the shared space."""
    return not set(blocks).isdisjoint(AGREEMENT)


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise ValueError unless the value is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")


def own_columns(vectors: Tensor, joint: int) -> Tensor:
    """A side's columns outside the shared space, or all of them if there are none outside."""
    return vectors[:, : own_width(vectors.shape[1], joint)]


def own_width(dim: int, joint: int) -> int:
    """Number of columns of `own_columns`."""
    return dim - joint if dim > joint else dim


def check_widths(image_dim: int, text_dim: int, joint: int) -> None:
    """Raise ValueError for widths out of range."""
    for name, value, least in (("image_dim", image_dim, 1), ("text_dim", text_dim, 1), ("joint", joint, 0)):
        require_whole(name, value, least, _WIDEST)
    if joint > min(image_dim, text_dim):
        raise ValueError(f"joint: expected at most the width of the narrower side, got {joint!r}")


def _side_widths(config: InputsConfig) -> dict[str, int]:
    """{name: number of columns} of what `Inputs._units` returns."""
    dims = {"image": config.image_dim, "text": config.text_dim}
    widths = {side: own_width(dims[side], config.joint) for side in dims if side in config.blocks}
    if config.agrees:
        widths |= {"joint_image": config.joint, "joint_text": config.joint}
    return widths


def _block(block: str, units: dict[str, Tensor]) -> Tensor:
    if block in units:
        return units[block]
    image, text = units["joint_image"], units["joint_text"]
    if block == "difference":
        return (image - text).abs()
    product = image * text
    return product if block == "product" else product.sum(dim=-1, keepdim=True)
