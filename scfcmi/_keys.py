"""Every AnnData key that the package writes or reads back is made here, and every name for one is checked here."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from anndata import AnnData

DEFAULT_KEY = "fair_cluster"
# Column of `var` with the genes to use, if there is one.
DEFAULT_MASK = "highly_variable"
# Entries of `uns[key]`.
TREE, CORRECTED, MAPPING = "tree", "corrected", "mapping"

# What AnnData and zarr call things of their own, in the place where ours would be.
RESERVED = frozenset({"_index", "zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"})
# Bytes. A name can be that of a file, which may have 255, and names derived from a key are longer than the key.
LONGEST = 200


@dataclass(frozen=True)
class Keys:
    """Names of the AnnData fields that belong to one run, all derived from `key_added`."""

    key_added: str = DEFAULT_KEY

    @classmethod
    def checked(
        cls,
        key_added: Any,
        adata: AnnData | None = None,
        *,
        argument: str = "key_added",
        obs: Iterable[str | None] = (),
        obsm: Iterable[str | None] = (),
        layers: Iterable[str | None] = (),
        uns: Mapping[str, Any] | Container[str] | None = None,
    ) -> Self:
        """The names of a run that is about to be written, if they can be.

        Parameters
        ----------
        key_added
            Name of the run.
        adata
            Where it is written to.
        argument
            What messages call the name.
        obs, obsm, layers
            What the result is computed from; `None` stands for nothing.
        uns
            What is in `uns`, where that of `adata` does not say.

        Raises
        ------
        TypeError
            If the name is not a string.
        ValueError
            If files have no room for such a name, or something that must stay would be overwritten: the index, what
            the result is computed from, or an entry that no earlier run has written.
        """
        keys = cls(checked_name(key_added, argument))
        for slot, names in {"obs": obs, "obsm": obsm, "layers": layers}.items():
            lost = sorted({name for name in names if name is not None} & set(keys.of_a_run[slot]))
            if lost:
                msg = (
                    f"{argument}={key_added!r} would overwrite {slot}[{lost[0]!r}], which the result is computed from. "
                    "Choose another name."
                )
                raise ValueError(msg)
        if adata is not None:
            keys._check_room(adata, argument, adata.uns if uns is None else uns)
        return keys

    @property
    def labels(self) -> str:
        """Column of `obs` with the cluster labels."""
        return self.key_added

    @property
    def embedding(self) -> str:
        """Entry of `obsm` with the registered positions."""
        return f"X_{self.key_added}"

    @property
    def proba(self) -> str:
        """Entry of `obsm` with the probability of every cluster."""
        return f"{self.key_added}_proba"

    @property
    def leaves(self) -> str:
        """Entry of `obsm` with the probability of every leaf of the tree, sparse."""
        return f"{self.key_added}_leaves"

    @property
    def confidence(self) -> str:
        """Column of `obs` with the probability of the cell's own cluster."""
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
        """Column of `obs` that says which cells are unlike everything that was fitted."""
        return f"{self.key_added}_unlike"

    @property
    def distance(self) -> str:
        """Column of `obs` with the distance of mapped cells to the reference."""
        return f"{self.key_added}_distance"

    def transferred(self, column: str) -> tuple[str, str]:
        """Columns of `obs` with labels that were transferred from a reference, and their probability."""
        return f"{self.key_added}_{column}", f"{self.key_added}_{column}_confidence"

    @property
    def umap(self) -> str:
        """Entry of `obsm` with the UMAP of the registered positions."""
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
    def of_a_cut(self) -> dict[str, tuple[str, ...]]:
        """What another cut of the same tree replaces."""
        return {
            "obs": (self.labels, self.confidence, self.stability),
            "obsm": (self.proba,),
            "layers": (),
            "uns": (self.colors, self.diagnosis),
        }

    @property
    def of_a_run(self) -> dict[str, tuple[str, ...]]:
        """What belongs to one clustering or mapping, by slot; a later one under this name replaces all of it."""
        cut = self.of_a_cut
        return {
            "obs": (*cut["obs"], self.unlike, self.distance),
            "obsm": (self.embedding, *cut["obsm"], self.leaves, self.umap),
            "layers": (*cut["layers"], self.corrected),
            "uns": (self.uns, *cut["uns"], f"{self.unlike}_colors"),
        }

    def _check_room(self, adata: AnnData, argument: str, uns: Any) -> None:
        if adata.obs_names.name in self.of_a_run["obs"]:
            msg = (
                f"{argument}={self.key_added!r} would overwrite the names of the cells, which obs calls "
                f"{adata.obs_names.name!r}. Choose another name."
            )
            raise ValueError(msg)
        # Every run writes labels: without them, what has these names is somebody else's.
        if self.labels in adata.obs:
            return
        for slot, name, held in (("obsm", self.embedding, adata.obsm), ("uns", self.uns, uns)):
            if name in held:
                msg = (
                    f"{argument}={self.key_added!r} would overwrite {slot}[{name!r}], which no earlier run has "
                    "written. Choose another name, or delete that entry."
                )
                raise ValueError(msg)


def checked_name(name: Any, argument: str) -> str:
    """A name that is the same in memory and in files, or an error that says what is wrong with it."""
    if not isinstance(name, str):
        msg = f"{argument}={name!r} must be a string, not {type(name).__name__}."
        raise TypeError(msg)
    if unfit := _unfit(name):
        msg = f"{argument}={name!r} cannot be a name in a file: {unfit}. Choose another name."
        raise ValueError(msg)
    return str(name)


def entry_name(name: str) -> str:
    """A name that somebody else chose, for example that of a column, as the name of an entry of a file.

    Almost all names stay as they are; what would be taken for a path is escaped as in addresses.
    """
    return "".join(quote(c, safe="") if c in "/\\%" or ord(c) < 32 else c for c in name)


def name_of_entry(entry: str) -> str:
    """What :func:`entry_name` was given."""
    return unquote(entry)


def _unfit(name: str) -> str | None:
    """What is wrong with a name."""
    if not name.strip():
        return "it is empty"
    if not name.isprintable():
        return "it has characters that cannot be printed"
    if bad := sorted(set("/\\") & set(name)):
        return f"it contains {bad[0]!r}"
    if not name.strip("."):
        return "it consists of dots"
    if name in RESERVED or name.startswith("__"):
        return "it is reserved"
    if len(name.encode()) > LONGEST:
        return f"it has more than {LONGEST} bytes"
    return None
