"""Which registered cells belong together."""

from ._neighbours import Index, landmarks
from ._recursion import Landmarks, Look, Votes, find_communities, vote, with_leaves
from ._tree import THRESHOLD, Tree

__all__ = [
    "THRESHOLD",
    "Index",
    "Landmarks",
    "Look",
    "Tree",
    "Votes",
    "find_communities",
    "landmarks",
    "vote",
    "with_leaves",
]
