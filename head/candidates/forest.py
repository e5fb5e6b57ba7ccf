"""A random forest on all inputs."""

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree._tree import Tree

from head.candidates.data import CandidateData
from head.model.forest import ForestConfig, ForestHead
from head.model.inputs import BLOCKS, Inputs
from head.model.method import Method

# scikit-learn's number of trees, and its rule for the inputs that a node chooses from. Of a large set each tree sees a sample:
# the trees differ the more, and stay small enough to be served.
_TREES, _MOST_MEMES = 100, 4096


def fit_forest(given: CandidateData) -> Method:
    """With scikit-learn's settings, which forests depend on little."""
    features = given.features
    config = given.inputs(BLOCKS if features.joint else ("image", "text"), True, standard=False)
    assert config is not None  # products are asked for only where there are any
    image, text = given.vectors()
    chosen = given.train_rows()
    inputs = Inputs(config, len(chosen)).fit(image, text, [torch.from_numpy(rows) for rows in chosen])
    forests = []
    for member, rows in enumerate(chosen):
        sampled = _MOST_MEMES if len(rows) > _MOST_MEMES else None
        forest = RandomForestClassifier(_TREES, max_samples=sampled, random_state=given.seed)
        columns = inputs.of_member(image[rows], text[rows], member).numpy()
        forests.append([tree.tree_ for tree in forest.fit(columns, features.label[rows]).estimators_])
    trees = [tree for forest in forests for tree in forest]
    nodes, depth = max(tree.node_count for tree in trees), max(tree.max_depth for tree in trees)
    head = ForestHead(ForestConfig(config, _TREES, nodes, depth), len(chosen))
    head.inputs = inputs
    for member, forest in enumerate(forests):
        for number, tree in enumerate(forest):
            _plant(head, member, number, tree)
    return given.method(head, {"trees": _TREES})


def _plant(head: ForestHead, member: int, number: int, tree: Tree) -> None:
    """Write one of scikit-learn's trees into the head's tensors."""
    itself, leaf = np.arange(tree.node_count), tree.children_left < 0
    limit = tree.threshold.astype(np.float32)
    # scikit-learn compares inputs in single precision with limits in double: the largest single number that goes left
    limit = np.where(limit > tree.threshold, np.nextafter(limit, np.float32(-np.inf)), limit)
    share = tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1)
    for name, values in (
        ("feature", np.where(leaf, 0, tree.feature)),
        ("limit", np.where(leaf, 0, limit)),
        ("left", np.where(leaf, itself, tree.children_left)),
        ("right", np.where(leaf, itself, tree.children_right)),
        ("share", share),
    ):
        place = head.get_buffer(name)[member, number, : tree.node_count]
        place.copy_(torch.from_numpy(np.asarray(values)))
