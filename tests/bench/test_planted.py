import numpy as np
import pytest

from bench.planted import RULES, clip_like
from head.data.ranking import auroc


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("rule", RULES)
def test_the_sides_lie_in_narrow_cones_apart_from_each_other(rule: str) -> None:
    features, optimum = clip_like(400, 0, rule)
    image, text = unit(features.image), unit(features.text)
    cosines = [float(np.mean(one @ other.mean(axis=0))) for one, other in ((image, image), (text, text), (image, text))]
    assert cosines == pytest.approx([0.65, 0.40, 0.18], abs=0.05)
    assert features.joint == 768 and 0.4 < features.label.mean() < 0.6
    assert optimum > 0.85 if rule != "noise" else optimum == 0.5


def test_agreement_shows_in_the_centred_cosine_and_in_no_side() -> None:
    features, _ = clip_like(2000, 0, "agreement")
    centred = [unit(unit(side) - unit(side).mean(axis=0)) for side in (features.image, features.text)]
    cosine = (centred[0] * centred[1]).sum(axis=1)
    assert (auroc(features.label, cosine) or 0) > 0.75
    means = [side[features.label == 1].mean(axis=0) - side[features.label == 0].mean(axis=0) for side in centred]
    assert all(np.linalg.norm(mean) < 0.1 for mean in means)


def test_the_same_seed_draws_the_same_memes_of_one_world() -> None:
    first, same, other = (clip_like(50, seed, "both", 32)[0] for seed in (0, 0, 1))
    assert (first.image == same.image).all() and (first.image != other.image).any()
