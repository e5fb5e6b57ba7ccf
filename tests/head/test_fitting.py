from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import planted_features
from sklearn.metrics import roc_auc_score

from head.candidates.table import BOTH, CANDIDATES, TRAINED
from head.data.folds import Protocol, assign_folds, members
from head.fitting import ENSEMBLE, SINGLE, FitData, FitJob, Fitted, ScoreScale, fit_all
from head.model.ensemble import HeadEnsemble
from head.model.fusion import HeadConfig
from head.model.method import Method
from head.model.training import TrainConfig
from head.search.study import Trial

MEMES = planted_features(120)
ROWS = np.arange(90)
HELD = MEMES.at(ROWS)
FOLDS = assign_folds(HELD.label, HELD.copies, HELD.split, Protocol("kfold", 3), 0)
TRIALS = [
    Trial(
        number,
        True,
        0.9,
        HeadConfig(8, 6, fusion, width=8, hidden=8),
        TrainConfig(learning_rate=1e-2, max_epochs=5),
        {},
        1.0,
    )
    for number, fusion in enumerate(("align", "concat"))
]


def fitted(jobs: int = 1) -> list[Fitted]:
    """To 90 memes, and the same with the other 30 to score."""
    data = FitData(MEMES, {}, 0, torch.device("cpu"))
    return fit_all(
        data, [FitJob(ROWS, FOLDS, TRIALS, rows) for rows in (np.empty(0, np.int64), np.arange(90, 120))], jobs
    )


@pytest.fixture(scope="module")
def both() -> list[Fitted]:
    return fitted()


def test_a_fit_to_some_memes_scores_others_as_it_would_score_new_ones(both):
    whole, without = both
    assert list(whole.methods)[:3] == [ENSEMBLE, SINGLE, BOTH] and not whole.held_out and not without.methods
    assert whole.picks == without.picks and whole.scales == without.scales and whole.reference == without.reference
    for name, method in whole.methods.items():
        assert (without.held_out[name] == method.score(MEMES.at(np.arange(90, 120)))).all()
        assert method.out_of_fold.shape == (90,) and np.isfinite(method.out_of_fold).all()
        assert whole.scales[name] == ScoreScale.of(method)


def test_two_processes_give_what_one_gives(both):
    for one, other in zip(both, fitted(jobs=2)):
        assert (one.picks, one.scales, one.reference) == (other.picks, other.scales, other.reference)
        assert all((one.held_out[name] == other.held_out[name]).all() for name in one.held_out)
        for name, method in one.methods.items():
            assert (method.score(MEMES) == other.methods[name].score(MEMES)).all()


def test_the_reference_is_the_simple_candidate_that_ranks_its_own_memes_best(both):
    methods = both[0].methods
    simple = {name: roc_auc_score(HELD.label, methods[name].out_of_fold) for name in CANDIDATES if name in methods}
    del simple[TRAINED]
    assert both[0].reference == max(simple, key=simple.__getitem__)


def test_the_ensemble_is_the_weighted_mean_of_its_heads_logits(both):
    method, picks = both[0].methods[ENSEMBLE], both[0].picks
    ensemble, weights = method.ensemble, np.array([times for _, times in picks]) / sum(times for _, times in picks)
    assert len(ensemble.heads) == len(weights)
    scores = np.stack([HeadEnsemble([head], [1.0]).score(HELD) for head in ensemble.heads])
    assert ensemble.score(HELD) == pytest.approx(np.array(ensemble.weights) @ scores, abs=1e-5)
    # before their shares, the heads' out-of-fold logits are made equally large
    outs = [held_out(head) for head in ensemble.heads]
    expected = sum(weight * out / out.std() for weight, out in zip(weights, outs))
    assert method.out_of_fold == pytest.approx(expected, abs=1e-4)


def held_out(head: torch.nn.Module) -> np.ndarray:
    """(N,) logits of one head, each by the member that held the meme out."""
    with torch.no_grad():
        logits = head(torch.from_numpy(HELD.image), torch.from_numpy(HELD.text)).numpy()
    out = np.empty(len(HELD))
    for member, (_, rows) in enumerate(members(FOLDS)):
        out[rows] = logits[member, rows]
    return out


def test_scores_of_another_scale_are_converted():
    score = np.random.default_rng(0).normal(size=400)
    one, other = (ScoreScale.of(Method(out, len)) for out in (score, 30 + 5 * score))
    np.testing.assert_allclose(other.convert(30 + 5 * score, one), score)
    constant = ScoreScale.of(Method(np.append(np.full(40, 0.1), np.nan), len))
    assert constant.std == 0 and set(constant.convert(np.full(5, 0.1 + 1e-12), ScoreScale(0.3, 0.0))) == {0.3}


def test_memes_of_which_nothing_converges_are_refused():
    data = FitData(MEMES, {}, 0, torch.device("cpu"))
    lost = [replace(trial, train=TrainConfig("sgd", 1e38)) for trial in TRIALS]
    with pytest.raises(ValueError, match="none of the best trials converged when it was trained again; add trials"):
        fit_all(data, [FitJob(ROWS, FOLDS, lost, ROWS[:0])], 1)
    kept = fit_all(data, [FitJob(ROWS, FOLDS, [lost[0], TRIALS[1]], ROWS[:0])], 1)[0]
    assert kept.methods[SINGLE].settings == {"trial": 1}
