import math

import optuna
import pytest

from head.model.fusion import FUSIONS
from head.model.training import OPTIMIZERS
from head.search.space import Space

DIMS = {"image_dim": 48, "text_dim": 40, "joint": 8}
RECIPES = list(Space(DIMS, 600).recipes().values())


@pytest.fixture
def study() -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))


@pytest.mark.parametrize("memes", [594, 100_000])
def test_every_point_is_a_head_and_a_training(study, memes):
    space, drawn = Space(DIMS, memes), []
    for _ in range(200):
        drawn.append(space.suggest(study.ask(), seed=7))  # both validate themselves
    seen = {(head.fusion, head.agreement) for head, _ in drawn}
    assert seen == {(fusion, agreeing) for fusion in FUSIONS for agreeing in (fusion != "agreement",) * 1} | {
        (fusion, False) for fusion in FUSIONS
    }
    assert len(space.kinds) == len(seen)
    assert {train.optimizer for _, train in drawn} == set(OPTIMIZERS)
    assert {train.loss.kind for _, train in drawn} == {"bce", "focal"}
    assert all((head.image_dim, head.text_dim, train.seed) == (48, 40, 7) for head, train in drawn)


def test_every_trial_has_the_same_parameters_so_that_they_are_drawn_together(study):
    for _ in range(30):
        Space(DIMS, 600).suggest(study.ask(), seed=0)
    assert len({frozenset(trial.params) for trial in study.trials}) == 1
    assert frozenset(study.trials[0].params) == frozenset(RECIPES[0])


@pytest.mark.parametrize("memes", [594, 100_000])
@pytest.mark.parametrize("number", range(len(RECIPES)))
def test_the_recipes_lie_within_the_space(study, number, memes, recwarn):
    space = Space(DIMS, memes)
    recipe = list(space.recipes().values())[number]
    study.enqueue_trial(recipe)
    trial = study.ask()
    space.suggest(trial, seed=0)
    assert trial.params == recipe  # a value out of its range would be drawn anew, with a warning
    assert not recwarn


def test_the_recipes_are_the_published_settings(study):
    space, settings = Space(DIMS, 600), []
    for recipe in space.recipes().values():
        study.enqueue_trial(recipe)
        settings.append(space.suggest(study.ask(), seed=0, recipe=True))
    align, probe, combiner, guided, cross, cosine = settings
    # HateCLIPper's; ISSUES and RGCL share them
    for head, train in (align, combiner, guided, cross):
        assert (head.map_dropout, head.dropout, head.depth, train.optimizer) == (0.2, 0.4, 1, "adamw")
        assert train.learning_rate == pytest.approx(1e-4) and train.weight_decay == 1e-4
    assert [head.fusion for head, _ in settings] == ["align", "linear", "combiner", "align", "cross", "align"]
    assert [train.loss.contrastive for _, train in settings] == [0, 0, 0, 0.5, 0, 0]
    assert (probe[0].depth, probe[0].dropout) == (0, 0.0)
    assert (cosine[0].output, cosine[0].adapter) == ("cosine", 64)
    assert all(16 <= train.batch_size <= 64 for _, train in settings)  # of the papers
    assert all((train.max_epochs, train.patience) == (213, 10) for _, train in settings)  # 2,000 steps
    assert space.suggest(study.ask(), seed=0)[1].max_epochs == 30


@pytest.mark.parametrize(("memes", "epochs"), [(100, 240), (2000, 64), (100_000, 30)])
def test_recipes_train_some_two_thousand_steps(study, memes, epochs):
    space = Space(DIMS, memes)
    study.enqueue_trial(space.recipes()["RGCL"])
    assert space.suggest(study.ask(), seed=0, recipe=True)[1].max_epochs == epochs


def test_without_a_shared_space_no_kind_has_agreement_inputs(study):
    space = Space({"image_dim": 48, "text_dim": 40, "joint": 0}, 600)
    assert set(space.kinds) == set(FUSIONS) - {"agreement"}
    assert not any(space.suggest(study.ask(), seed=0)[0].agrees for _ in range(50))


def test_an_optimizer_keeps_its_rates(study):
    space = Space(DIMS, 600)
    ends = {}
    for optimizer in OPTIMIZERS:
        for position in (0.0, 1.0):
            study.enqueue_trial({**RECIPES[0], "optimizer": optimizer, "learning_rate_position": position})
            ends.setdefault(optimizer, []).append(space.suggest(study.ask(), seed=0)[1].learning_rate)
    assert ends["sgd"] == pytest.approx([3e-2, 3.0]) and ends["adamw"] == pytest.approx([3e-5, 3e-3])
    assert all(math.log10(high / low) >= 1.5 for low, high in ends.values())


@pytest.mark.parametrize(
    ("dims", "memes", "components", "smallest_width", "smallest_batch"),
    [
        ((1024, 768), 594, [32, 64, 128], 32, 32),
        ((1024, 768), 4000, [128], 128, 128),  # thousands take larger steps over larger heads
        ((48, 40), 594, [32, 48], 32, 32),  # no more components than there are columns
        ((8, 6), 100_000, [8], 128, 128),
    ],
)
def test_sizes_follow_the_number_of_memes_and_columns(dims, memes, components, smallest_width, smallest_batch, study):
    space = Space({**dict(zip(("image_dim", "text_dim"), dims)), "joint": 0}, memes)
    drawn = [space.suggest(study.ask(), seed=0) for _ in range(60)]
    assert sorted({head.components for head, _ in drawn}) == components
    assert min(head.width for head, _ in drawn) == smallest_width
    assert min(train.batch_size for _, train in drawn) == smallest_batch
    assert all(recipe["components"] == components[-1] for recipe in space.recipes().values())
