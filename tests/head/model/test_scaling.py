import numpy as np
import pytest
import torch
from torch import Tensor

from head.model import scaling as module
from head.model.scaling import Scaling


def draw(rows: int, dim: int, seed: int = 0, rank: int | None = None) -> Tensor:
    """Vectors with columns of different size and correlated by a few common causes."""
    rng = np.random.default_rng(seed)
    causes = rank or min(rows, dim)
    mixed = rng.normal(size=(rows, causes)) * np.linspace(3, 0.5, causes) @ rng.normal(size=(causes, dim))
    return torch.from_numpy(mixed.astype(np.float32))


def standardised(vectors: Tensor, rows: Tensor) -> np.ndarray:
    """All unit vectors, by the mean and the deviation of the rows; in double precision."""
    values = vectors.double().numpy()
    unit = values / np.linalg.norm(values, axis=1, keepdims=True)
    return (unit - unit[rows].mean(axis=0)) / unit[rows].std(axis=0)


def principal(standard: np.ndarray, rows: Tensor, components: int, spectrum: int) -> np.ndarray:
    """The first components by numpy's SVD of the rows, each of the power of its deviation, divided by one number."""
    _, _, axes = np.linalg.svd(standard[rows], full_matrices=False)
    reduced = standard @ axes[:components].T
    deviation = reduced[rows].std(axis=0)
    reduced *= deviation**spectrum / deviation
    return reduced / np.sqrt(np.mean(reduced[rows] ** 2))


def test_without_components_columns_are_those_of_unit_vectors_standardised() -> None:
    vectors, rows = draw(40, 7), [torch.arange(0, 30), torch.arange(5, 40)]
    scaled = Scaling(2, 7, 7).fit(vectors, rows)(vectors)
    assert scaled.shape == (2, 40, 7)
    for member, chosen in enumerate(rows):
        np.testing.assert_allclose(scaled[member], standardised(vectors, chosen), atol=1e-5)
        assert scaled[member, chosen].mean(dim=0).abs().max() < 1e-5
        np.testing.assert_allclose(scaled[member, chosen].std(dim=0, correction=0), np.ones(7), atol=1e-5)


@pytest.mark.parametrize("spectrum", [0, 1, 2])
@pytest.mark.parametrize(("count", "dim", "components"), [(60, 9, 4), (20, 50, 6), (20, 20, 15), (300, 12, 11)])
def test_components_are_numpys_up_to_their_sign(count: int, dim: int, components: int, spectrum: int) -> None:
    vectors, rows = draw(count + 10, dim), [torch.arange(count), torch.arange(10, count + 10)]
    scaled = Scaling(2, dim, components, spectrum).fit(vectors, rows)(vectors).double().numpy()
    for member, chosen in enumerate(rows):
        expected = principal(standardised(vectors, chosen), chosen, components, spectrum)
        signs = np.sign((expected * scaled[member]).sum(axis=0))
        np.testing.assert_allclose(scaled[member] * signs, expected, atol=2e-3)
        assert np.mean(scaled[member][chosen] ** 2) == pytest.approx(1, abs=1e-4)


def test_only_the_rows_given_decide_the_scaling_of_a_member() -> None:
    vectors, rows = draw(40, 30), [torch.arange(20), torch.arange(20, 40)]
    first = Scaling(2, 30, 5).fit(vectors, rows).state_dict()
    vectors[20:] = draw(20, 30, seed=1)
    second = Scaling(2, 30, 5).fit(vectors, rows).state_dict()
    for name in first:
        assert torch.equal(first[name][0], second[name][0]) and not torch.equal(first[name][1], second[name][1])


def test_as_few_and_as_many_rows_as_columns_end_in_the_same_components() -> None:
    """Rows as many as columns and one more take the two different products."""
    vectors = draw(30, 30)
    vectors = torch.cat((vectors, vectors))  # twice the same: the same principal axes
    few, many = (Scaling(1, 30, 8).fit(vectors, [torch.arange(rows)])(vectors) for rows in (30, 60))
    torch.testing.assert_close(few, many, atol=2e-3, rtol=0)


@pytest.mark.parametrize("spectrum", [0, 1, 2])
@pytest.mark.parametrize("rows", [12, 200])
def test_directions_that_the_rows_do_not_span_are_left_empty(rows: int, spectrum: int) -> None:
    vectors = draw(rows, 40, rank=5)
    vectors = vectors / vectors.norm(dim=1, keepdim=True)  # of unit length before as well, so that the rank stays
    scaled = Scaling(1, 40, 30, spectrum).fit(vectors, [torch.arange(rows)])(vectors)[0]
    assert scaled.isfinite().all() and (scaled[:, :5].std(dim=0) > 0.05).all()
    assert (scaled[:, 5:] == 0).all()
    assert scaled[:, :5].square().mean() == pytest.approx(1, abs=1e-4)


def test_fewer_rows_than_components_fill_the_rest_with_zeros() -> None:
    vectors = draw(6, 40)
    scaled = Scaling(1, 40, 10).fit(vectors, [torch.arange(6)])(draw(20, 40, seed=1))[0]
    assert scaled.shape == (20, 10) and (scaled[:, 5:] == 0).all() and (scaled[:, :5].std(dim=0) > 0).all()


@pytest.mark.parametrize("components", [3, 2])
def test_a_constant_column_is_only_centred(components: int) -> None:
    angle = torch.linspace(0, 1, 20)
    vectors = torch.stack((angle.cos(), angle.sin(), torch.full((20,), 2.0)), dim=1)
    scaling = Scaling(1, 3, components).fit(vectors, [torch.arange(20)])
    assert scaling.std[0, 0, 2] == 1 and (scaling.std[0, 0, :2] != 1).all()
    assert scaling(vectors).isfinite().all() and scaling(vectors).abs().max() < 10


@pytest.mark.parametrize("spectrum", [0, 1, 2])
@pytest.mark.parametrize("components", [4, 2])
@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
def test_vectors_that_are_all_equal_become_zeros(components: int, vector: list[float], spectrum: int) -> None:
    vectors = torch.tensor([vector] * 9)
    scaled = Scaling(1, 4, components, spectrum).fit(vectors, [torch.arange(9)])(vectors)
    assert scaled.shape == (1, 9, components) and scaled.abs().max() < 1e-5


def test_a_vector_of_zeros_among_others_is_no_nan() -> None:
    vectors = draw(20, 6)
    vectors[3] = 0
    for components in (6, 3):
        assert Scaling(1, 6, components).fit(vectors, [torch.arange(20)])(vectors).isfinite().all()


def test_the_length_of_a_vector_does_not_matter() -> None:
    vectors = draw(20, 6)
    scaling = Scaling(1, 6, 3).fit(vectors, [torch.arange(20)])
    torch.testing.assert_close(scaling(vectors), scaling(vectors * torch.linspace(0.1, 9, 20)[:, None]))


@pytest.mark.parametrize(("rows", "dim"), [(30, 50), (80, 20)])
def test_fitting_again_gives_the_same_bits_and_changes_no_vector(rows: int, dim: int) -> None:
    vectors = draw(rows, dim)
    before = vectors.clone()
    scaling = Scaling(1, dim, 10).fit(vectors, [torch.arange(rows)])
    first = {name: value.clone() for name, value in scaling.state_dict().items()}
    second = scaling.fit(vectors, [torch.arange(rows)]).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first) and torch.equal(vectors, before)
    largest = scaling.projection[0].gather(0, scaling.projection[0].abs().argmax(dim=0, keepdim=True))
    assert (largest > 0).all()  # the sign that eigenvectors lack


def test_large_sets_are_scaled_in_parts_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = draw(50, 12)
    scaling = Scaling(2, 12, 5).fit(vectors, [torch.arange(30), torch.arange(20, 50)])
    whole = scaling(vectors)
    monkeypatch.setattr(module, "_ROWS", 7)
    torch.testing.assert_close(scaling(vectors), whole)


def test_as_many_components_as_columns_need_no_projection() -> None:
    assert Scaling(1, 4, 4).projection is None and "projection" not in Scaling(1, 4, 4).state_dict()
