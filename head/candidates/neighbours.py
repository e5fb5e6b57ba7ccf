"""Nearest neighbours, among the inputs or in the embedding of a fusion head."""

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
# Most memes to search among: more hardly change the vote, and take the server's memory.
_MOST_KNOWN = 4096


def fit_neighbours(data: CandidateData, blocks: tuple[str, ...]) -> Method | None:
    """By cosine over the centred blocks; None if they need sides that share a space, and these do not.

    The number of neighbours is that with the highest mean held-out AUROC of the members.
    """
    # agreement blocks are standardised, since their columns differ in scale; sides are unit vectors
    space = data.inputs(blocks, True, standard=agreement_among(blocks))
    if space is None:
        return None
    head = _head_over(data, NeighbourConfig(space, _count(data), 1))
    image, text = data.vectors()
    assert isinstance(head.space, Inputs)
    head.space.fit(image, text, [torch.from_numpy(rows) for rows in data.train_rows()])
    return _select_k(data, head)


def fit_trained_neighbours(data: CandidateData) -> Method | None:
    """In the embedding of the best fusion head, as RGCL (Mei et al., "Improving Hateful Meme Detection through Retrieval-Guided
    Contrastive Learning", 2024); None without such a head."""
    if data.trained is None:
        return None
    head = _head_over(data, NeighbourConfig(data.trained.config, _count(data), 1))
    assert isinstance(head.space, FusionHead)
    head.space.load_state_dict(data.trained.state_dict())
    return _select_k(data, head)


def _count(data: CandidateData) -> int:
    return min(len(data.features), _MOST_KNOWN)


def _head_over(data: CandidateData, config: NeighbourConfig) -> NeighbourHead:
    """A head over a sample of the memes, of which each member searches its own train memes."""
    rows = sample(np.arange(len(data.features)), config.known, data.seed)
    head = NeighbourHead(config, len(data.members)).eval()
    head.image, head.text = (vectors[rows] for vectors in data.vectors())
    head.label = tensor(data.features.label[rows])
    head.known = torch.stack([tensor(np.isin(rows, train)) for train, _ in data.members])
    return head


def _select_k(data: CandidateData, head: NeighbourHead) -> Method:
    voters = tuple(count for count in _VOTERS if count <= head.config.known)
    votes = data.scores(partial(head.votes, voters=voters))  # (M, N, V)
    label = data.features.label
    worth = [aurocs(label[held], votes[member, held].T) for member, (_, held) in enumerate(data.members)]
    k = voters[int(np.argmax(np.mean(worth, axis=0)))]
    head.config = replace(head.config, voters=k)
    return data.method(head, {"k": k})
