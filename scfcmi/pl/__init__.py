"""Figures from what `scfcmi.tl` wrote."""

from ._composition import composition
from ._counterfactual import counterfactual
from ._diagnose import diagnose
from ._n_clusters import n_clusters
from ._tradeoff import tradeoff
from ._training import training
from ._umap import umap

__all__ = ["composition", "counterfactual", "diagnose", "n_clusters", "tradeoff", "training", "umap"]
