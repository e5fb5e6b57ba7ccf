"""Votes of the nearest known memes, in whatever space they are looked for."""

from dataclasses import replace
from functools import partial

import numpy as np
import torch

from head.candidates.data import CandidateData, sample, tensor
from head.data.ranking import aurocs
from head.model.fusion import FusionHead
from head.model.inputs import Inputs, agreement_among
from head.model.method import Method
from head.model.neighbours import NeighbourConfig, NeighbourHead

_VOTERS = (1, 3, 5, 10, 20, 50, 100)
# Memes that may vote: more hardly change the vote, and take memory in whatever serves it.
_MOST_KNOWN = 4096


def fit_neighbours(given: CandidateData, blocks: tuple[str, ...]) -> Method | None:
    """By the mean cosine of the blocks, centred; None where they need sides that share a space, and these do not.

    The number of voters has the highest mean AUROC on the memes that the members held out.
    """
    # products are of the size of their columns' deviations; sides are not
    space = given.inputs(blocks, True, standard=agreement_among(blocks))
    if space is None:
        return None
    head = _known(given, NeighbourConfig(space, _count(given), 1))
    image, text = given.vectors()
    assert isinstance(head.space, Inputs)
    head.space.fit(image, text, [torch.from_numpy(rows) for rows in given.train_rows()])
    return _chosen(given, head)


def fit_trained_neighbours(given: CandidateData) -> Method | None:
    """Where the best fusion head puts the memes, as RGCL votes (Mei et al., "Improving Hateful Meme Detection through
    Retrieval-Guided Contrastive Learning", 2024); None without such a head."""
    if given.trained is None:
        return None
    head = _known(given, NeighbourConfig(given.trained.config, _count(given), 1))
    assert isinstance(head.space, FusionHead)
    head.space.load_state_dict(given.trained.state_dict())
    return _chosen(given, head)


def _count(given: CandidateData) -> int:
    return min(len(given.features), _MOST_KNOWN)


def _known(given: CandidateData, config: NeighbourConfig) -> NeighbourHead:
    """A head that knows a sample of the memes, and which of them each member learns from."""
    rows = sample(np.arange(len(given.features)), config.known, given.seed)
    head = NeighbourHead(config, len(given.members)).eval()
    head.image, head.text = (vectors[rows] for vectors in given.vectors())
    head.label = tensor(given.features.label[rows])
    head.known = torch.stack([tensor(np.isin(rows, train)) for train, _ in given.members])
    return head


def _chosen(given: CandidateData, head: NeighbourHead) -> Method:
    voters = tuple(count for count in _VOTERS if count <= head.config.known)
    votes = given.scores(partial(head.votes, voters=voters))  # (M, N, V)
    label = given.features.label
    worth = [aurocs(label[held], votes[member, held].T) for member, (_, held) in enumerate(given.members)]
    k = voters[int(np.argmax(np.mean(worth, axis=0)))]
    head.config = replace(head.config, voters=k)
    return given.method(head, {"k": k})
