"""Fair clustering of single cells, after FCMI (Zeng et al., CVPR 2023)."""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import Any

__version__ = version("scfcmi")
__all__ = ["__version__", "datasets", "metrics", "model", "pl", "published", "report", "tl"]


def __getattr__(name: str) -> Any:
    # What takes seconds to import (torch, scanpy) is imported when it is used.
    if name == "report":
        return importlib.import_module("._report", __name__).report
    if name in __all__:
        return importlib.import_module(f".{name}", __name__)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
