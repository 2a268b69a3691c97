"""Everything that can be set about a run, and the named sets of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

Preset = Literal["default", "paper"]


@dataclass(frozen=True)
class Settings:
    """Network, objective and schedule of one run.

    Parameters
    ----------
    front
        `"pca"`: standardise and project first; `"identity"`: the network sees the columns as they are.
    n_comps
        Directions kept by the front layer.
    hidden
        Widths of the encoder's trunk; the decoder mirrors them.
    n_shared
        Decoder layers before the groups' branches part.
    n_latent
        Width of the embedding; the number of clusters when absent.
    n_centres
        Clusters the network is trained with and that are merged afterwards; when absent it is trained with the
        number of clusters asked for and nothing is merged.
    temperature
        τ of the soft assignments.
    kmeans_every_epoch
        Whether centres are refreshed by k-means of all embeddings once an epoch; otherwise they are learned.
    reconstruction, alpha, beta
        Weights of ‖x − θ_g(φ(x))‖², H(C) − H(C|X) and I(G;C).
    neighbours, matches, spread
        Weights of the agreement with neighbours of the same group and with matches in other groups, and of the
        entropy H(C) within both.
    overlap
        Weight of I(G;C) over matched cells.
    n_neighbors, n_matches
        Neighbours within the group and candidates for mutual neighbours per other group.
    sketch_size
        Largest number of cells that the graph is built on and the network is trained with.
    learning_rate, batch_size
        Adam's step and cells per step.
    max_epochs
        Number of epochs; derived from the number of cells when absent.
    warmup_epochs
        Epochs of reconstruction alone.
    patience
        Epochs without improvement of the objective before stopping; never when absent.
    """

    front: Literal["pca", "identity"]
    hidden: tuple[int, ...]
    n_shared: int
    n_latent: int | None
    n_centres: int | None
    temperature: float
    kmeans_every_epoch: bool
    reconstruction: float
    alpha: float
    beta: float
    learning_rate: float
    batch_size: int
    max_epochs: int | None
    warmup_epochs: int
    patience: int | None
    n_comps: int = 30
    neighbours: float = 0.0
    matches: float = 0.0
    spread: float = 0.0
    overlap: float = 0.0
    n_neighbors: int = 10
    n_matches: int = 5
    sketch_size: int = 20_000

    @property
    def uses_graph(self) -> bool:
        """Whether any term needs to know who a cell's neighbours are."""
        return self.n_centres is not None

    def with_fairness(self, fairness: float) -> Settings:
        """Scale every term that ties clusters to groups; 1 is the paper's independence."""
        if not self.uses_graph:
            return replace(self, beta=self.beta * fairness)
        return replace(self, overlap=self.overlap * 2 * fairness, matches=self.matches * min(1, 2 * fairness), beta=max(0, 2 * fairness - 1))

    def with_changes(self, **changes: Any) -> Settings:
        """Replace the given fields, leaving out those that are None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


PRESETS: dict[str, Settings] = {
    # METHOD as published: network for vectors, α, β, τ, Adam, 300 epochs of which 20 are reconstruction alone.
    "paper": Settings(
        front="identity",
        hidden=(1024, 1024, 512, 256),
        n_shared=2,
        n_latent=None,
        n_centres=None,
        temperature=0.1,
        kmeans_every_epoch=True,
        reconstruction=1.0,
        alpha=0.04,
        beta=0.20,
        learning_rate=1e-3,
        batch_size=512,
        max_epochs=300,
        warmup_epochs=20,
        patience=None,
    ),
    "default": Settings(
        front="pca",
        hidden=(128, 128),
        n_shared=2,
        n_latent=32,
        n_centres=40,
        temperature=0.1,
        kmeans_every_epoch=False,
        reconstruction=0.3,
        alpha=0.0,
        beta=0.0,
        learning_rate=2e-3,
        batch_size=512,
        max_epochs=None,
        warmup_epochs=10,
        patience=None,
        neighbours=1.0,
        matches=1.0,
        spread=1.0,
        overlap=0.5,
    ),
}
