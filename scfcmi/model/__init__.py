"""What is kept of a fit, and the estimator."""

from ._estimator import FCMI
from ._state import Assignment, Registered

__all__ = ["FCMI", "Assignment", "Registered"]
