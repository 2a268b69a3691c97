"""What is optimised: information terms on the joint table of clusters and groups, and where cells should meet."""

from ._alignment import Alignment, align, believable, neighbourhood_distance
from ._graph import merge_affinity, mutual_matches, nearest, neighbours_within
from ._information import (
    assignment_entropy,
    entropy,
    global_mean,
    global_sum,
    joint_table,
    mutual_information,
    wide,
    world_size,
)
from ._terms import consensus_terms, continuous_terms, fcmi_terms, leakage_term

__all__ = [
    "Alignment",
    "align",
    "assignment_entropy",
    "believable",
    "consensus_terms",
    "continuous_terms",
    "entropy",
    "fcmi_terms",
    "global_mean",
    "global_sum",
    "joint_table",
    "leakage_term",
    "merge_affinity",
    "mutual_information",
    "mutual_matches",
    "nearest",
    "neighbourhood_distance",
    "neighbours_within",
    "wide",
    "world_size",
]
