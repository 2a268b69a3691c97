"""Fair clustering of single cells: clusters that follow biology and not technology, batch or donor."""

from __future__ import annotations

from importlib.metadata import version

from . import datasets, metrics, model, pl, tl

__all__ = ["datasets", "metrics", "model", "pl", "tl"]

__version__ = version("scfcmi")
