"""How the objective is optimised: settings, batches, centres, the loop."""

from ._centres import kmeans_centres
from ._device import make_fabric, one_thread, resolve_device
from ._draws import Draw, representative_draw
from ._merge import MergeTree, merge_tree, suggest_n_clusters
from ._settings import PRESETS, Preset, Settings
from ._trainer import Record, Targets, default_epochs, embed_all, train

__all__ = [
    "PRESETS",
    "Draw",
    "MergeTree",
    "Preset",
    "Record",
    "Settings",
    "Targets",
    "default_epochs",
    "embed_all",
    "kmeans_centres",
    "make_fabric",
    "merge_tree",
    "one_thread",
    "representative_draw",
    "resolve_device",
    "suggest_n_clusters",
    "train",
]
