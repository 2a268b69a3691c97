"""Functions on AnnData: cluster, score, map."""

from ._correct import correct
from ._diagnose import Diagnosis, diagnose
from ._evaluate import Evaluation, evaluate
from ._fair_cluster import fair_cluster
from ._map_query import map_query
from ._predict_on_disk import predict_on_disk
from ._recut import recut
from ._tradeoff import tradeoff
from ._umap import umap

__all__ = [
    "Diagnosis",
    "Evaluation",
    "correct",
    "diagnose",
    "evaluate",
    "fair_cluster",
    "map_query",
    "predict_on_disk",
    "recut",
    "tradeoff",
    "umap",
]
