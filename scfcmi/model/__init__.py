"""What is kept of a fit, and the estimator."""

from ._estimator import FCMI, check_fitted
from ._evidence import evidence_of
from ._new_groups import restricted, with_new_group
from ._several import fit_several
from ._state import Assignment, Registered, best_leaf, largest_first, proba_of_clusters

__all__ = [
    "FCMI",
    "Assignment",
    "Registered",
    "best_leaf",
    "check_fitted",
    "evidence_of",
    "fit_several",
    "largest_first",
    "proba_of_clusters",
    "restricted",
    "with_new_group",
]
