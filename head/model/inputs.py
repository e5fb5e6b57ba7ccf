"""What a head may see of two vectors: each side, and how they agree in the space that they share.

CLIP maps pictures and texts to one space, in which the k-th number of one side speaks of what the k-th number of the
other does. So nothing here changes that space on one side alone: sides are centred at their own mean (the two lie in
cones apart from each other: Liang et al., "Mind the Gap", 2022) and rotated together or not at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from head.model.scaling import deviation, principal_axes

BLOCKS = ("image", "text", "product", "difference", "cosine")
AGREEMENT = BLOCKS[2:]
# Far beyond any encoder's vectors: what is wider is a damaged config.json.
_WIDEST = 1 << 20
# Rows that means and deviations are taken from: more hardly change either.
_MOST_ROWS = 8192


@dataclass(frozen=True)
class InputsConfig:
    """Raises ValueError for what no vectors have.

    image_dim, text_dim: of the vectors, whose last `joint` columns lie in the shared space; blocks: some of BLOCKS;
    centred: whether each side is centred at the mean of the member's train memes, and brought to unit length again;
    standard: whether each column is then standardised.
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
        """Whether a block says how the sides agree."""
        return agreement_among(self.blocks)

    @property
    def sides(self) -> tuple[str, ...]:
        """Which vectors are read: "image", "text" or both."""
        return tuple(side for side in ("image", "text") if self.agrees or side in self.blocks)

    @property
    def widths(self) -> tuple[int, ...]:
        """Columns of each block."""
        width = {
            "image": own_width(self.image_dim, self.joint),
            "text": own_width(self.text_dim, self.joint),
            "product": self.joint,
            "difference": self.joint,
            "cosine": 1,
        }
        return tuple(width[block] for block in self.blocks)


class Inputs(nn.Module):
    """M members' blocks side by side, (N, Di) and (N, Dt) -> (M, N, W).

    image, text: the side's own columns at unit length; product, difference, cosine: the element-wise product, the
    absolute difference and the cosine of the joint columns.
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
        """Each member's inputs, (N, W), one after another: those of all at once can be large."""
        units = self._units(image, text)
        for member in range(self.members):
            yield self._seen(units, member)

    def of_member(self, image: Tensor, text: Tensor, member: int) -> Tensor:
        """One member's inputs, (N, W)."""
        return self._seen(self._units(image, text), member)

    def _seen(self, units: dict[str, Tensor], member: int) -> Tensor:
        columns = self._columns(units, member)
        return (columns - self.mean[member]) / self.std[member] if self.config.standard else columns

    def _units(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        """{side: (N, D)}: the vectors' parts that the blocks are made of, at unit length."""
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
    """How M members see that the sides agree, (N, Di) and (N, Dt) -> (M, N, 2 K + 1): product and absolute difference of
    K principal components of the joint space, and the cosine in the whole of it.

    One rotation serves both sides, fitted to both, so that their components still speak of the same. Product and
    difference have an energy of 1 each, shared among their columns as it falls, and so has the cosine.
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
    """At most so many of the (N,) rows, always the same ones, in their order. Drawn, since every k-th row is of one label
    where labels alternate."""
    if len(rows) <= most:
        return rows
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:most].sort().values
    return rows[drawn.to(rows.device)]


def agreement_among(blocks: Sequence[str]) -> bool:
    """Whether some of the blocks need sides that share a space."""
    return not set(blocks).isdisjoint(AGREEMENT)


def require_whole(name: str, value: object, least: int, most: int) -> None:
    """Raise ValueError for what is no whole number within the bounds."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")


def own_columns(vectors: Tensor, joint: int) -> Tensor:
    """What a side says by itself: its columns outside the shared space, or all of it where there are no others."""
    return vectors[:, : own_width(vectors.shape[1], joint)]


def own_width(dim: int, joint: int) -> int:
    """How many columns `own_columns` has."""
    return dim - joint if dim > joint else dim


def check_widths(image_dim: int, text_dim: int, joint: int) -> None:
    """Raise ValueError for widths that no vectors have."""
    for name, value, least in (("image_dim", image_dim, 1), ("text_dim", text_dim, 1), ("joint", joint, 0)):
        require_whole(name, value, least, _WIDEST)
    if joint > min(image_dim, text_dim):
        raise ValueError(f"joint: expected at most the width of the narrower side, got {joint!r}")


def _side_widths(config: InputsConfig) -> dict[str, int]:
    """{part of a vector that the blocks are made of: its columns}."""
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
