"""Before and after in one figure, for a page that shows what the package does."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scfcmi._keys import DEFAULT_KEY

from ._composition import composition
from ._layout import fit, panels
from ._umap import umap

PANEL, SIZE = 2.5, 9.0


def overview(
    adata: AnnData,
    key: str = DEFAULT_KEY,
    sensitive_key: str = "tech",
    *,
    label_key: str = "cell_type",
    before: str = "X_umap",
) -> Figure:
    """Cells by group and by label on a map made without correction and on that of a run, its clusters and their groups.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    sensitive_key
        Column of `obs` with the technology, batch or donor.
    label_key
        Column of `obs` with reference labels.
    before
        Entry of `obsm` with a map of the cells that knows nothing of the run.

    Returns
    -------
    A figure outside of pyplot, to be saved.

    Raises
    ------
    KeyError
        If a column, the run or the map does not exist.
    """
    if before not in adata.obsm:
        msg = f"adata.obsm has no {before!r}. Run `scanpy.tl.umap` first, or name another map with `before`."
        raise KeyError(msg)
    figure = Figure()
    figure.set_layout_engine("none")
    FigureCanvasAgg(figure)
    axes = panels([(PANEL, PANEL)] * 6, figure)
    old = AnnData(
        obs=adata.obs[[sensitive_key, label_key]],
        obsm={f"X_{key}_umap": np.asarray(adata.obsm[before])[:, :2]},
        uns=adata.uns,
    )
    for row, name in enumerate((sensitive_key, label_key)):
        first, second = axes[3 * row : 3 * row + 2]
        umap(old, name, key=key, size=SIZE, legend_loc=None, title=f"before, by {name}", ax=first, show=False)
        umap(adata, name, key=key, size=SIZE, legend_fontsize=9, title=f"after, by {name}", ax=second, show=False)
    umap(adata, key, key=key, size=SIZE, title="fair clusters", ax=axes[2], show=False)
    composition(adata, key, sensitive_key, ax=axes[5], show=False)
    legend = axes[5].get_legend()
    if legend is not None:  # its colours are those of the panels above
        legend.remove()
    for ax in axes[:5]:
        ax.set(xlabel="", ylabel="")
        ax.spines[:].set_visible(False)
    for ax in axes:
        ax.title.set_fontsize(12)
    fit(axes, 3)
    return figure
