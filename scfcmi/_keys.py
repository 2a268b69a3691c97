"""Every AnnData key that the package writes or reads back is made here."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_KEY = "fair_cluster"
# Column of `var` with the genes to use, if there is one.
DEFAULT_MASK = "highly_variable"


@dataclass(frozen=True)
class Keys:
    """Names of the AnnData fields that belong to one run, all derived from `key_added`."""

    key_added: str = DEFAULT_KEY

    @property
    def labels(self) -> str:
        """Column of `obs` with the cluster labels."""
        return self.key_added

    @property
    def embedding(self) -> str:
        """Entry of `obsm` with the learned embedding."""
        return f"X_{self.key_added}"

    @property
    def proba(self) -> str:
        """Entry of `obsm` with the soft assignments."""
        return f"{self.key_added}_proba"

    @property
    def confidence(self) -> str:
        """Column of `obs` with the largest soft assignment."""
        return f"{self.key_added}_confidence"

    @property
    def stability(self) -> str:
        """Column of `obs` with the agreement of several runs."""
        return f"{self.key_added}_stability"

    @property
    def corrected(self) -> str:
        """Layer with corrected expression."""
        return f"{self.key_added}_corrected"

    @property
    def unlike(self) -> str:
        """Column of `obs` that says which mapped cells are unlike the reference."""
        return f"{self.key_added}_unlike"

    @property
    def distance(self) -> str:
        """Column of `obs` with the distance of mapped cells to the reference."""
        return f"{self.key_added}_distance"

    @property
    def umap(self) -> str:
        """Entry of `obsm` with the UMAP of the learned embedding."""
        return f"X_{self.key_added}_umap"

    @property
    def uns(self) -> str:
        """Entry of `uns` with parameters, history and metrics."""
        return self.key_added

    @property
    def colors(self) -> str:
        """Entry of `uns` with the palette of the labels, scanpy's convention."""
        return f"{self.key_added}_colors"

    @property
    def diagnosis(self) -> str:
        """Entry of `uns` with the report on over-correction."""
        return f"{self.key_added}_diagnosis"

    @property
    def of_a_run(self) -> dict[str, tuple[str, ...]]:
        """What belongs to one clustering in `obs`, `obsm` and `uns`; a later one under this name replaces all of it."""
        return {
            "obs": (self.labels, self.confidence, self.stability),
            "obsm": (self.embedding, self.proba, self.umap),
            "uns": (self.uns, self.colors, self.diagnosis),
        }
