"""What is optimised: information terms on the joint table of clusters and groups, and who should agree with whom."""

from ._graph import Graph
from ._information import (
    assignment_entropy,
    entropy,
    global_mean,
    global_sum,
    joint_table,
    mutual_information,
    pair_information,
    world_size,
)
from ._terms import Pairs, agreement_terms, fcmi_terms, matched_independence

__all__ = [
    "Graph",
    "Pairs",
    "agreement_terms",
    "assignment_entropy",
    "entropy",
    "fcmi_terms",
    "global_mean",
    "global_sum",
    "joint_table",
    "matched_independence",
    "mutual_information",
    "pair_information",
    "world_size",
]
