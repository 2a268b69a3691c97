"""How the objective is optimised: settings, batches, centres, the loop."""

from ._centres import kmeans_centres
from ._checkpoint import check_checkpoint, remove_checkpoint
from ._device import (
    check_devices,
    is_first_process,
    launched_processes,
    make_fabric,
    make_joint_fabric,
    one_thread,
    resolve_device,
)
from ._draws import Draw, representative_draw
from ._merge import MergeTree, merge_tree, suggest_n_clusters
from ._processes import train_in_processes
from ._settings import PRESETS, Preset, Settings
from ._trainer import Record, Targets, default_epochs, embed, embed_all, epoch_bar, train

__all__ = [
    "PRESETS",
    "Draw",
    "MergeTree",
    "Preset",
    "Record",
    "Settings",
    "Targets",
    "check_checkpoint",
    "check_devices",
    "default_epochs",
    "embed",
    "embed_all",
    "epoch_bar",
    "is_first_process",
    "kmeans_centres",
    "launched_processes",
    "make_fabric",
    "make_joint_fabric",
    "merge_tree",
    "one_thread",
    "remove_checkpoint",
    "representative_draw",
    "resolve_device",
    "suggest_n_clusters",
    "train",
    "train_in_processes",
]
