"""FCMI as its authors ran it (Zeng et al., CVPR 2023), and experiments on it."""

from ._checkpoint import remove_checkpoint
from ._fit import PublishedFit, fit_published
from ._network import GroupBranches
from ._options import EpochReport, NetworkOptions
from ._rows import Scaling
from ._scores import FollowScores
from ._terms import LABELS, Term

__all__ = [
    "LABELS",
    "EpochReport",
    "FollowScores",
    "GroupBranches",
    "NetworkOptions",
    "PublishedFit",
    "Scaling",
    "Term",
    "fit_published",
    "remove_checkpoint",
]
