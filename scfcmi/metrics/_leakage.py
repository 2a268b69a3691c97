"""How far an embedding gives the group away."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scfcmi._encode import encode
from scfcmi._numbers import check_count, check_seed


def group_leakage(
    embedding: ArrayLike,
    groups: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    n_splits: int = 5,
    random_state: int = 0,
) -> float:
    r"""How well a linear classifier can tell groups apart within types, above chance.

    .. math::

        \sum_y \frac{n_y}{n} \, \max\left(0, \frac{\mathrm{acc}_y - 1 / G_y}{1 - 1 / G_y}\right)

    where :math:`\mathrm{acc}_y` is the balanced accuracy of a logistic regression, on cells it was not fitted to, for
    the :math:`G_y` groups that have enough cells of type :math:`y`. It is 0 where groups cannot be told apart, and 1
    where every cell gives its group away. Groups that differ in composition can be told apart by it, so types are
    looked at one by one.

    Parameters
    ----------
    embedding
        Coordinates of each cell, shape (n_cells, n_dims).
    groups
        Sensitive attribute of each cell, shape (n_cells,).
    labels
        Type or cluster of each cell, shape (n_cells,); all cells are one type when absent, and those without one do
        not count.
    n_splits
        Folds of the cross-validation; groups with fewer cells of a type than this do not count there.
    random_state
        Seed of the folds.

    Returns
    -------
    Leakage, between 0 and 1. Types in which fewer than two groups have enough cells do not count.

    Raises
    ------
    ValueError
        If values are missing or lengths differ, or no type has two groups with enough cells.

    Examples
    --------
    >>> import numpy as np
    >>> from scfcmi.metrics import group_leakage
    >>> rng = np.random.default_rng(0)
    >>> groups = rng.choice(["a", "b"], 200)
    >>> embedding = rng.normal(size=(200, 3))
    >>> group_leakage(embedding + 9 * (groups == "a")[:, None], groups)
    1.0
    """
    x = np.asarray(embedding, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        msg = (
            f"embedding has shape {x.shape}; it needs the shape (n_cells, n_dims), without missing or infinite values."
        )
        raise ValueError(msg)
    check_count(n_splits, "n_splits", least=2)
    check_seed(random_state)
    labels = np.zeros(len(x), np.int64) if labels is None else labels
    rows_, groups_, labels_ = encode(partial="labels", embedding=np.arange(len(x)), groups=groups, labels=labels)
    x = x[np.array(rows_.levels, np.int64)]
    found, sizes = [], []
    for label in range(len(labels_.levels)):
        inside = labels_.codes == label
        enough = np.bincount(groups_.codes[inside], minlength=len(groups_.levels)) >= n_splits
        rows = np.flatnonzero(inside & enough[groups_.codes])
        n_groups = int(enough.sum())
        if n_groups < 2:
            continue
        folds = StratifiedKFold(n_splits, shuffle=True, random_state=random_state)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=1000))
        guess = cross_val_predict(classifier, x[rows], groups_.codes[rows], cv=folds)
        accuracy = balanced_accuracy_score(groups_.codes[rows], guess)
        found.append(max(0.0, (accuracy - 1 / n_groups) / (1 - 1 / n_groups)))
        sizes.append(len(rows))
    if not found:
        msg = f"No type has two groups with at least {n_splits} cells each. Pass fewer n_splits, or coarser labels."
        raise ValueError(msg)
    return float(np.average(found, weights=sizes))
