"""How the objective is optimised: settings, batches, centres, the loop."""

from ._device import make_fabric, resolve_device
from ._merge import MergeTree, merge_tree, suggest_n_clusters
from ._settings import PRESETS, Preset, Settings
from ._trainer import Record, default_epochs, embed_all, train

__all__ = [
    "PRESETS",
    "MergeTree",
    "Preset",
    "Record",
    "Settings",
    "default_epochs",
    "embed_all",
    "make_fabric",
    "merge_tree",
    "resolve_device",
    "suggest_n_clusters",
    "train",
]
