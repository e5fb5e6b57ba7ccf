"""Scaling of an encoder's vectors: unit length, standardised columns, principal components.

Each member of a head has its own scaling, fitted to its train memes alone, so that held-out memes do not influence it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Columns of unit vectors have a standard deviation of about 1/sqrt(D), above .005; below this a column is constant.
_CONSTANT = 1e-6
# Memes per forward pass, to bound memory.
_ROWS = 8192


class Scaling(nn.Module):
    """M scalings of one side, (N, D) -> (M, N, K).

    Unit length; standardised columns; where K < D, the K largest principal components, each rescaled to its standard
    deviation to the power `spectrum`, then all by one factor to a mean square of 1. spectrum 0 is whitening, 1 leaves the
    components as they are. 2 compensates Adam, whose steps are equal in every column: strong directions are learnt first,
    as by gradient descent on unscaled components.
    """

    mean: Tensor  # (M, 1, D)
    std: Tensor  # (M, 1, D)
    projection: Tensor | None  # (M, D, K)

    def __init__(self, members: int, dim: int, components: int, spectrum: int = 1) -> None:
        super().__init__()
        self._spectrum = spectrum
        self.register_buffer("mean", torch.zeros(members, 1, dim))
        self.register_buffer("std", torch.ones(members, 1, dim))
        reduced = components < dim
        self.register_buffer("projection", torch.zeros(members, dim, components) if reduced else None)

    @torch.no_grad()
    def fit(self, vectors: Tensor, rows: Sequence[Tensor]) -> "Scaling":
        """Fit each member to its rows of the (N, D) vectors; a constant column is only centred."""
        for member, chosen in enumerate(rows):
            unit = F.normalize(vectors[chosen], dim=-1)
            mean, std = unit.mean(dim=0), deviation(unit)
            self.mean[member, 0], self.std[member, 0] = mean, std
            if self.projection is not None:
                self.projection[member] = _principal(
                    unit.sub_(mean).div_(std), self.projection.shape[-1], self._spectrum
                )
        return self

    def forward(self, vectors: Tensor) -> Tensor:
        parts = [self._scaled(F.normalize(part, dim=-1)) for part in vectors.split(_ROWS)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _scaled(self, unit: Tensor) -> Tensor:
        standard = (unit - self.mean) / self.std  # (M, N, D)
        return standard if self.projection is None else torch.bmm(standard, self.projection)


def deviation(rows: Tensor) -> Tensor:
    """(N, D) -> (D,) standard deviations of the columns; 1 for a constant one."""
    std = rows.std(dim=0, correction=0)
    return torch.where(std < _CONSTANT, 1.0, std)


def principal_axes(rows: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """(N, D) centred rows -> (D, K) principal axes, largest variance first, and (K,) float64 variances.

    Axes outside the span of the rows are zero. Decomposes the smaller of the Gram and the covariance matrix.
    """
    count, dim = rows.shape
    doubled = rows.double() if count <= dim else rows
    products = doubled @ doubled.T if count <= dim else doubled.T @ doubled
    values, axes = torch.linalg.eigh(products.double() / count)
    values, axes = values.flip(0)[:components], axes.flip(1)[:, :components]
    if count <= dim:
        axes = F.normalize(doubled.T @ axes, dim=0)
    # the sign of an eigenvector is arbitrary: fix it, so that all machines train equal heads
    axes = axes * torch.where(axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)) < 0, -1.0, 1.0)
    kept = values > _CONSTANT * values[0].clamp(min=_CONSTANT)
    missing = components - len(values)
    return F.pad(axes * kept, (0, missing)).to(rows.dtype), F.pad(values * kept, (0, missing))


def _principal(rows: Tensor, components: int, spectrum: int) -> Tensor:
    """(N, D) centred rows -> (D, K) principal axes, scaled as in Scaling."""
    axes, values = principal_axes(rows, components)
    kept = values > 0
    wanted = torch.where(kept, values, 1.0) ** spectrum * kept  # variances of the components
    wanted = wanted / (wanted.sum() / kept.sum().clamp(min=1)).clamp(min=_CONSTANT)
    return axes * (wanted / torch.where(kept, values, 1.0)).sqrt().to(axes.dtype)
