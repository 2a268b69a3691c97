"""The estimator under `scfcmi.tl.fair_cluster`, for arrays and for code that keeps models."""

from ._estimator import FCMI, Assignment

__all__ = ["Assignment", "FCMI"]
