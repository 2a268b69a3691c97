"""Figures from what `scfcmi.tl` wrote."""

from ._compare import compare
from ._composition import composition
from ._confidence import confidence, reliability
from ._counterfactual import counterfactual
from ._diagnose import diagnose
from ._n_clusters import n_clusters
from ._overview import overview as overview  # for the command line
from ._summary import summary
from ._tradeoff import tradeoff
from ._training import training
from ._tree import tree
from ._umap import umap

__all__ = [
    "compare",
    "composition",
    "confidence",
    "counterfactual",
    "diagnose",
    "n_clusters",
    "reliability",
    "summary",
    "tradeoff",
    "training",
    "tree",
    "umap",
]
