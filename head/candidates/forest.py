"""A random forest (Breiman, "Random Forests", 2001) on all inputs."""

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree._tree import Tree

from head.candidates.data import CandidateData
from head.model.forest import ForestConfig, ForestHead
from head.model.inputs import BLOCKS, Inputs
from head.model.method import Method

# scikit-learn's default number of trees. Of a large set each tree is fitted to a sample: trees are more diverse, and small
# enough to be served.
_TREES, _MOST_MEMES = 100, 4096


def fit_forest(data: CandidateData) -> Method:
    """Fit with scikit-learn's defaults, to which forests are insensitive."""
    features = data.features
    config = data.inputs(BLOCKS if features.joint else ("image", "text"), True, standard=False)
    assert config is not None  # products only with a shared space
    image, text = data.vectors()
    chosen = data.train_rows()
    inputs = Inputs(config, len(chosen)).fit(image, text, [torch.from_numpy(rows) for rows in chosen])
    forests = []
    for member, rows in enumerate(chosen):
        sampled = _MOST_MEMES if len(rows) > _MOST_MEMES else None
        forest = RandomForestClassifier(_TREES, max_samples=sampled, random_state=data.seed)
        columns = inputs.of_member(image[rows], text[rows], member).numpy()
        forests.append([tree.tree_ for tree in forest.fit(columns, features.label[rows]).estimators_])
    trees = [tree for forest in forests for tree in forest]
    nodes, depth = max(tree.node_count for tree in trees), max(tree.max_depth for tree in trees)
    head = ForestHead(ForestConfig(config, _TREES, nodes, depth), len(chosen))
    head.inputs = inputs
    for member, forest in enumerate(forests):
        for number, tree in enumerate(forest):
            _copy_tree(head, member, number, tree)
    return data.method(head, {"trees": _TREES})


def _copy_tree(head: ForestHead, member: int, number: int, tree: Tree) -> None:
    """Copy a scikit-learn tree into the head's tensors."""
    own, leaf = np.arange(tree.node_count), tree.children_left < 0
    limit = tree.threshold.astype(np.float32)
    # scikit-learn compares float32 inputs with float64 thresholds: round down to the largest float32 that goes left
    limit = np.where(limit > tree.threshold, np.nextafter(limit, np.float32(-np.inf)), limit)
    share = tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1)
    for name, values in (
        ("feature", np.where(leaf, 0, tree.feature)),
        ("limit", np.where(leaf, 0, limit)),
        ("left", np.where(leaf, own, tree.children_left)),
        ("right", np.where(leaf, own, tree.children_right)),
        ("share", share),
    ):
        place = head.get_buffer(name)[member, number, : tree.node_count]
        place.copy_(torch.from_numpy(np.asarray(values)))
