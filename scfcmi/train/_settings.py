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
    hidden
        Widths of the encoder's trunk; the decoder mirrors them.
    n_shared
        Decoder layers before the groups' full branches part; if absent, groups only scale and shift one decoder.
    temperature
        τ of the soft assignments.
    learning_rate, one_cycle
        Adam's step, and whether it rises and falls once over the run with this as its peak or stays as it is.
    batch_size
        Cells per step.
    max_epochs
        Number of epochs; derived from the number of cells when absent.
    warmup_epochs
        Epochs of reconstruction alone.
    patience, tolerance
        Epochs whose mean is compared with that of as many before, and the share by which it has to be better for
        training to go on; it never stops early when absent. What has to improve is the loss, and without consensus its
        information terms: reconstruction goes on falling long after clusters are what they will be.
    fairness
        From 0, cluster only, to 1, independence of clusters and groups.
    reconstruction, alpha, beta
        Weights of ‖x − θ_g(φ(x))‖², of H(C) − H(C|X), and of I(G;C) at `fairness` 1.
    consensus
        Whether cells are standardised, projected and aligned across groups first, so that many small clusters can be
        found among the aligned cells, learned by the network, and merged. Otherwise the network sees the columns as
        they are, has as many centres as clusters, and centres are refreshed by k-means once an epoch.
    alignment, assignment
        Weights of the distance to the aligned position and of the cross-entropy to its assignment.
    leakage
        Weight of the distance between the mean embeddings of groups within small clusters, times the share of the
        displacement that is applied.
    n_comps
        Directions kept when projecting.
    height
        How far above the plane of these directions cells stand on the sphere, in typical lengths: at 0, only the
        direction from the mean counts; the larger, the more its length counts as well.
    n_fine
        Small clusters, before merging.
    n_align_neighbors, n_align_matches
        Neighbours over which displacements are smoothed, and candidates for mutual neighbours per other group.
    n_neighbors, n_matches, n_joint
        Neighbours within the group, candidates for mutual neighbours, and neighbours among all cells when merging.
    sketch_size
        Largest number of cells that are aligned and that the network is trained with.
    """

    hidden: tuple[int, ...]
    n_shared: int | None
    temperature: float
    learning_rate: float
    one_cycle: bool
    batch_size: int
    max_epochs: int | None
    warmup_epochs: int
    patience: int | None
    fairness: float
    reconstruction: float
    alpha: float
    beta: float
    consensus: bool
    alignment: float = 0.0
    assignment: float = 0.0
    leakage: float = 0.0
    n_comps: int = 30
    height: float = 0.0
    n_fine: int = 60
    n_align_neighbors: int = 15
    n_align_matches: int = 10
    n_neighbors: int = 10
    n_matches: int = 5
    n_joint: int = 15
    sketch_size: int = 10_000
    tolerance: float = 1e-3

    @property
    def align_strength(self) -> float:
        """Share of the displacement towards other groups that is applied; complete from `fairness` 0.5 on."""
        return min(1.0, 2 * self.fairness)

    @property
    def independence(self) -> float:
        """Weight of I(G;C) in the loss; with consensus it sets in above `fairness` 0.5."""
        return self.beta * (max(0.0, 2 * self.fairness - 1) if self.consensus else self.fairness)

    @property
    def independence_of_values(self) -> float:
        """Weight of the dependence on continuous attributes in the loss; with consensus complete with the alignment.

        Alignment sees quantiles of a value, and leaves what varies within them.
        """
        return self.beta * (self.align_strength if self.consensus else self.fairness)

    def with_changes(self, **changes: Any) -> Settings:
        """Replace the given fields, leaving out those that are None."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


PRESETS: dict[Preset, Settings] = {
    "default": Settings(
        hidden=(128, 128),
        n_shared=None,
        temperature=0.1,
        learning_rate=4e-3,
        one_cycle=True,
        batch_size=512,
        max_epochs=None,
        warmup_epochs=0,
        patience=20,
        fairness=0.5,
        reconstruction=0.3,
        alpha=0.0,
        beta=10.0,
        consensus=True,
        alignment=5.0,
        assignment=1.0,
        leakage=30.0,
        height=0.7,
    ),
    # As published: network for vectors, α, β, τ, Adam, 300 epochs of which 20 are reconstruction alone. They end early
    # once the information terms have settled.
    "paper": Settings(
        hidden=(1024, 1024, 512, 256),
        n_shared=2,
        temperature=0.1,
        learning_rate=1e-3,
        one_cycle=False,
        batch_size=512,
        max_epochs=300,
        warmup_epochs=20,
        patience=20,
        tolerance=5e-2,
        fairness=1.0,
        reconstruction=1.0,
        alpha=0.04,
        beta=0.20,
        consensus=False,
    ),
}
