"""Functions on AnnData: cluster, cut, map, correct, judge."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._correct import correct as correct
    from ._diagnose import Diagnosis as Diagnosis
    from ._diagnose import diagnose as diagnose
    from ._evaluate import Evaluation as Evaluation
    from ._evaluate import evaluate as evaluate
    from ._fair_cluster import fair_cluster as fair_cluster
    from ._map_query import map_query as map_query
    from ._markers import markers as markers
    from ._match import match as match
    from ._predict_on_disk import predict_on_disk as predict_on_disk
    from ._predict_on_disk import store_run as store_run
    from ._recut import recut as recut
    from ._tradeoff import tradeoff as tradeoff
    from ._umap import umap as umap

_MODULE_OF = {
    "Diagnosis": "_diagnose",
    "Evaluation": "_evaluate",
    "correct": "_correct",
    "diagnose": "_diagnose",
    "evaluate": "_evaluate",
    "fair_cluster": "_fair_cluster",
    "map_query": "_map_query",
    "markers": "_markers",
    "match": "_match",
    "predict_on_disk": "_predict_on_disk",
    "recut": "_recut",
    "tradeoff": "_tradeoff",
    "umap": "_umap",
}
__all__ = list(_MODULE_OF)
_MODULE_OF["store_run"] = "_predict_on_disk"  # for the command line


def __getattr__(name: str) -> Any:
    # Each function is imported when it is used: some bring libraries that take seconds.
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
