"""How a clustering is judged: arrays of labels in, a number or a table out."""

from ._agreement import clustering_accuracy, f_beta
from ._continuous import continuous_dependence
from ._fairness import balance, cluster_composition, conditional_fairness, mnce, nce
from ._leakage import group_leakage
from ._scores import clustering_scores

__all__ = [
    "balance",
    "cluster_composition",
    "clustering_accuracy",
    "clustering_scores",
    "conditional_fairness",
    "continuous_dependence",
    "f_beta",
    "group_leakage",
    "mnce",
    "nce",
]
