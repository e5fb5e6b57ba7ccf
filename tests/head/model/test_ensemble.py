import numpy as np
import pytest
import torch
from fakes import planted_features
from sklearn.metrics import roc_auc_score

from head.model import ensemble as module
from head.model.ensemble import HeadEnsemble, select, select_bagged, weighted_ensemble
from head.model.fusion import FusionHead, HeadConfig


def library(heads: int, memes: int, seed: int, folds: int = 3) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of heads that each see part of the truth, the best first; labels; folds, with a tenth in none."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=memes)
    label = (truth + 0.5 * rng.normal(size=memes) > 0).astype(np.int64)
    fold = rng.permutation(np.arange(memes) % folds)
    held = np.stack([fold == k for k in range(folds)])
    held[:, ::10] = False
    logits = truth * rng.uniform(0.2, 1, (heads, 1)) + rng.normal(size=(heads, memes))
    logits = logits[np.argsort([-judged(one, label, held) for one in logits])]
    logits[:, ::10] = np.nan
    return logits, label, held


def judged(scores: np.ndarray, label: np.ndarray, held: np.ndarray) -> float:
    return float(np.mean([roc_auc_score(label[fold], scores[fold]) for fold in held]))


def greedy(logits: np.ndarray, label: np.ndarray, held: np.ndarray) -> list[int]:
    """Caruana's forward selection with replacement from the best sorted start, word for word."""
    starts = [list(range(size)) for size in range(1, len(logits) + 1)]
    value = [judged(logits[start].sum(axis=0), label, held) for start in starts]
    bag = starts[value.index(max(value))]
    best = max(value)
    while len(bag) < 12:
        value = [judged(logits[[*bag, one]].sum(axis=0), label, held) for one in range(len(logits))]
        if max(value) <= best:
            break
        bag, best = [*bag, value.index(max(value))], max(value)
    return np.bincount(bag, minlength=len(logits)).tolist()


@pytest.mark.parametrize("seed", range(6))
def test_the_picks_are_those_of_a_greedy_search_by_hand(seed: int) -> None:
    logits, label, held = library(heads=6, memes=90, seed=seed)
    picks = select(logits.copy(), label, held)
    assert picks.dtype == np.int64 and picks.tolist() == greedy(logits, label, held)


def test_the_cases_by_hand_hold_heads_picked_twice_and_heads_not_picked() -> None:
    picks = np.stack([select(*library(6, 90, seed)) for seed in range(6)])
    assert (picks == 0).any() and (picks == 1).any() and (picks > 1).any() and picks.sum(axis=1).max() <= 12


def test_an_ensemble_is_no_worse_than_its_best_head_out_of_fold() -> None:
    for seed in range(6):
        logits, label, held = library(6, 90, seed)
        assert judged(select(logits, label, held) @ logits, label, held) >= judged(logits[0], label, held)


def test_a_head_that_ranks_the_wrong_way_round_is_never_picked() -> None:
    logits, label, held = library(4, 300, seed=0)
    logits = np.concatenate((logits, -3 * logits[:1], np.zeros_like(logits[:1])))
    picks = select(logits, label, held)
    assert picks[:4].sum() > 0 and picks[4] == 0


def test_of_one_head_that_one_is_picked_and_a_perfect_first_one_alone() -> None:
    logits, label, held = library(3, 60, seed=1)
    assert select(logits[:1], label, held).tolist() == [1]
    logits[0] = np.where(label == 1, 1.0, -1.0)
    assert select(logits, label, held).tolist() == [1, 0, 0]


def make_heads() -> list[FusionHead]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [
            FusionHead(HeadConfig(8, 6, fusion, dropout=0.5), members)
            for fusion, members in (("align", 3), ("text", 2))
        ]


def test_an_ensemble_scores_the_weighted_mean_of_the_mean_of_members() -> None:
    features, heads = planted_features(20), make_heads()
    scores = HeadEnsemble(heads, [0.75, 0.25]).score(features)
    expected = np.zeros(20)
    with torch.inference_mode():
        for head, weight in zip(heads, (0.75, 0.25)):
            for member in head.eval()(torch.from_numpy(features.image), torch.from_numpy(features.text)):
                expected += weight * member.double().numpy() / head.members
    assert scores.dtype == np.float64 and scores.shape == (20,)
    np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_scoring_some_rows_at_a_time_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    features, ensemble = planted_features(20), HeadEnsemble(make_heads(), [0.5, 0.5])
    whole = ensemble.score(features)
    monkeypatch.setattr(module, "_ROWS", 7)
    np.testing.assert_allclose(ensemble.score(features), whole, atol=1e-6)


def test_picked_heads_are_evened_and_weighted_by_how_often_they_were_picked() -> None:
    generator = np.random.default_rng(0)
    config, counts = HeadConfig(8, 6, "concat", components=0, width=4, hidden=4), np.array([2, 0, 1])
    heads = [FusionHead(config) for _ in counts]
    logits = generator.normal(size=(3, 40)) * np.array([[1.0], [5.0], [20.0]])
    logits[:, 30:] = np.nan  # trained on
    ensemble, together = weighted_ensemble(heads, logits, counts)
    sizes = np.array([logits[head, :30].std() for head in range(3)])
    np.testing.assert_allclose(together[:30], 2 / 3 * logits[0, :30] / sizes[0] + 1 / 3 * logits[2, :30] / sizes[2])
    assert np.isnan(together[30:]).all() and [*ensemble.heads] == [heads[0], heads[2]]
    np.testing.assert_allclose(ensemble.weights, [2 / 3 / sizes[0], 1 / 3 / sizes[2]])


def test_bagged_selection_adds_up_selections_from_halves_and_leaves_out_the_seldom_picked() -> None:
    rng = np.random.default_rng(0)
    label, held = np.arange(300) % 2, np.stack([np.arange(300) % 3 == fold for fold in range(3)])
    logits = rng.normal(size=(8, 300)) + np.array([1.5, 1.4, 1.0, 0.5, 0, 0, 0, 0])[:, None] * label
    counts = select_bagged(logits, label, held, 0)
    assert counts.dtype == np.int64 and (counts == select_bagged(logits, label, held, 0)).all()
    assert counts[:3].sum() > 0.6 * counts.sum() and (counts[counts > 0] >= 0.05 * counts.sum()).all()
    assert (counts[:2] > select(logits, label, held)[:2]).all()
    assert select_bagged(logits[:1], label, held, 0)[0] == 20
