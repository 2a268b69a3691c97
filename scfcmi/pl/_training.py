"""How training went, epoch by epoch."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from scfcmi._keys import DEFAULT_KEY

from ._results import result
from ._style import PALETTE, SMALL, despine, given_axes, legend_beside, new_axes, should_return

SYMBOLS = {
    "loss": "loss",
    "reconstruction": "reconstruction",
    "h_c": "H(C)",
    "h_c_given_x": "H(C|X)",
    "h_c_given_g": "H(C|G)",
    "i_xc": "I(X;C)",
    "i_xc_given_g": "I(X;C|G)",
    "i_gc": "I(G;C)",
    "i_gc_matched": "I(G;C), matched cells",
    "leakage": "groups apart in h",
    "i_neighbours": "I, neighbours",
    "h_neighbours": "H, neighbours",
    "i_matches": "I, matches",
    "h_matches": "H, matches",
}
INFORMATION = ("i_xc_given_g", "i_gc", "i_gc_matched")
STRONG = {"loss": "black", "i_xc_given_g": PALETTE[0], "i_gc": PALETTE[1], "i_gc_matched": PALETTE[4]}


def training(
    adata: AnnData, key: str = DEFAULT_KEY, *, ax: Sequence[Axes] | None = None, show: bool | None = None
) -> list[Axes] | None:
    """Loss, its terms and the two kinds of information, by epoch.

    The first panel has the loss and its terms, the second what clusters say about cells within groups, I(X;C|G), which
    should rise, and about groups, I(G;C), which should stay low. The value after each name is that of the last epoch.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    ax
        Two axes; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The two axes; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If there is no run of that name.
    ValueError
        If the number of axes is not two.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfcmi as sf
    >>> adata = ad.AnnData(np.zeros((2, 2), "float32"))
    >>> history = {"epoch": np.arange(1, 4.0), "loss": np.array([3, 2, 1.0]), "i_gc": np.array([0.3, 0.2, 0.1])}
    >>> adata.uns["fair_cluster"] = {"history": history, "stopped": {"epoch": 3, "reason": "ran all 3 epochs"}}
    >>> axes = sf.pl.training(adata, show=False)
    >>> axes[1].get_title()
    'Information'
    """
    history = {str(name): np.asarray(values, float) for name, values in result(adata, key, "history").items()}
    stopped = adata.uns[key].get("stopped")
    epochs = history.pop("epoch", None)
    if epochs is None:
        epochs = np.arange(1.0, 1 + max((len(values) for values in history.values()), default=0))
    axes = given_axes(ax, 2) or new_axes(2, ncols=2, width=11.5, height=3.6)
    names = sorted(history, key=lambda name: name not in STRONG)
    shown = [*INFORMATION, *(name for name in names if _is_information(name) and name not in INFORMATION)]
    _lines(axes[0], epochs, {name: history[name] for name in names if not _is_information(name)})
    _lines(axes[1], epochs, {name: history[name] for name in shown if name in history})
    axes[0].set_title("Loss and its terms")
    axes[1].set_title("Information")
    axes[1].set_ylabel("nats")
    for one in axes:
        one.set_xlabel("epoch")
        one.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        despine(one)
    if stopped is not None:
        _mark_end(axes, stopped)
    return axes if should_return(show=show, own_figure=ax is None) else None


def _is_information(name: str) -> bool:
    """Also those of single attributes, `i_gc_<name>` and `i_vc_<name>`."""
    return name in INFORMATION or name.startswith(("i_gc_", "i_vc_"))


def _lines(ax: Axes, epochs: NDArray[np.float64], terms: Mapping[str, NDArray[np.float64]]) -> None:
    spare = iter(PALETTE[:6] * (1 + len(terms) // 6))
    dashes = ["-", "--", ":"]
    names = []
    for i, (name, values) in enumerate(terms.items()):
        style: dict[str, Any] = (
            {"color": STRONG[name], "lw": 2.2} if name in STRONG else {"color": next(spare), "lw": 1.3}
        )
        linestyle = "-" if name in STRONG else dashes[min(i // 6, 2)]
        marker = "o" if len(epochs) == 1 else None
        ax.plot(epochs, values, linestyle=linestyle, marker=marker, **style)
        finite = values[np.isfinite(values)]
        names.append(SYMBOLS.get(name, name) + (f"  {finite[-1]:.3g}" if len(finite) else "  never used"))
    if names:
        legend_beside(ax, ax.get_lines(), names)


def _mark_end(axes: Sequence[Axes], stopped: Mapping[str, object]) -> None:
    epoch, reason = int(str(stopped["epoch"])), str(stopped["reason"])
    for one in axes:
        one.axvline(epoch, color="0.6", linestyle=":", lw=1, zorder=0)
    said = textwrap.fill(f"ended after epoch {epoch}: {reason}", 70)
    axes[0].set_xlabel(f"epoch\n{said}", fontsize=SMALL + 1)
