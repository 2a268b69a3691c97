"""Warnings that point at the user's line, not into the package."""

from __future__ import annotations

import sys
import warnings


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the first frame outside the package as the place."""
    depth, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("scfcmi"):
        depth, frame = depth + 1, frame.f_back
    warnings.warn(message, category, stacklevel=depth)
