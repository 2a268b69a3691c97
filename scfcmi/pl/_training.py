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
from scfcmi.published import LABELS

from ._results import damaged, numbers, result
from ._style import PALETTE, SMALL, despine, given_axes, legend_beside, new_axes, should_return

# Terms of the default's history; those of the published network bring their labels.
SYMBOLS = {
    **LABELS,
    "free_energy": "free energy",
    "log_likelihood": "log-likelihood",
    "prior": "prior",
    "h_c_given_g": "H(C|G)",
    "acc": "ACC",
    "nmi": "NMI",
    "mnce": "MNCE",
    "f_beta": "F_β",
}
# Entropies and informations are in nats; those of single attributes follow their prefix.
NATS = ("i_xc_given_g", "h_c_given_g", "i_gc", "h_c", "h_c_given_x")
OF_ATTRIBUTE = ("i_gc_", "i_vc_")
SCORES = ("acc", "nmi", "mnce", "f_beta")
STRONG = {
    "loss": "black",
    "free_energy": "black",
    "i_xc_given_g": PALETTE[0],
    "h_c_given_g": PALETTE[0],
    "i_gc": PALETTE[1],
    **dict(zip(SCORES, PALETTE, strict=False)),
}


def training(
    adata: AnnData, key: str = DEFAULT_KEY, *, ax: Sequence[Axes] | None = None, show: bool | None = None
) -> list[Axes] | None:
    """Loss, its terms and what clusters say about cells and about groups, by epoch or by pass over the cells.

    The first panel has the loss or the free energy and its parts. The second has what is measured in nats: what
    clusters say about cells within groups, I(X;C|G), which should rise, about groups, I(G;C), which should stay low,
    and the entropies that these are made of. Where scores were kept along with them (`acc`, `nmi`, `mnce`, `f_beta`),
    a third panel shows these, as Figure 5 of Zeng et al. (CVPR 2023) does. The value after each name is the last one.

    Parameters
    ----------
    adata
        Annotated data with the results of a run.
    key
        Name of the run, its `key_added`.
    ax
        One axes per panel, two, or three where there are scores; a new figure is made when absent.
    show
        Whether to show the figure; when absent, only if matplotlib is interactive and the figure a new one.

    Returns
    -------
    The axes; `None` if the figure was shown.

    Raises
    ------
    KeyError
        If there is no run of that name.
    ValueError
        If the number of axes is another one.

    Examples
    --------
    >>> import anndata as ad, numpy as np, scfcmi as sf
    >>> adata = ad.AnnData(np.zeros((2, 2), "float32"))
    >>> history = {"loss": np.array([3, 2, 1.0]), "i_gc": np.array([0.3, 0.2, 0.1])}
    >>> adata.uns["fair_cluster"] = {"history": history, "stopped": {"epoch": 3, "reason": "ran all 3 epochs"}}
    >>> axes = sf.pl.training(adata, show=False)
    >>> axes[1].get_title()
    'Information'
    """
    history = {str(name): _term(values, str(name), key) for name, values in result(adata, key, "history").items()}
    end = _end(adata, key)
    history.pop("epoch", None)
    unit = "pass" if "free_energy" in history else "epoch"
    scores = [name for name in SCORES if name in history]
    nats = [*(name for name in NATS if name in history), *(n for n in history if n.startswith(OF_ATTRIBUTE))]
    parts = sorted((name for name in history if name not in {*nats, *scores}), key=lambda name: name not in STRONG)
    panels = [("Loss and its terms" if unit == "epoch" else "Free energy and its parts", "", parts)]
    panels += [("Information", "nats", nats), *([("Scores", "", scores)] if scores else [])]
    n = len(panels)
    axes = given_axes(ax, n) or new_axes(n, ncols=n, width=5.75 * n, height=3.6)
    for one, (title, ylabel, names) in zip(axes, panels, strict=True):
        _lines(one, {name: history[name] for name in names})
        one.set(title=title, ylabel=ylabel, xlabel=unit)
        one.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        despine(one)
    if scores:
        axes[2].set_ylim(0, 1.02)
    if end is not None:
        _mark_end(axes, *end, unit)
    return axes if should_return(show=show, own_figure=ax is None) else None


def _term(values: Any, name: str, key: str) -> NDArray[np.float64]:
    try:
        term = np.asarray(values, float)
    except (TypeError, ValueError):
        term = np.empty((0, 0))
    if term.ndim != 1:
        raise ValueError(damaged(key, "history", f"{name!r} is no list of numbers"))
    return term


def _end(adata: AnnData, key: str) -> tuple[int, str] | None:
    """When a run ended and why, where it says so."""
    if "stopped" not in adata.uns[key]:
        return None
    stopped = result(adata, key, "stopped")
    epoch = numbers(stopped, "epoch", key, "stopped")
    if epoch.ndim or "reason" not in stopped:
        raise ValueError(damaged(key, "stopped", "it does not say when and why the run ended"))
    return int(epoch), str(stopped["reason"])


def _label(name: str) -> str:
    """What a term is called; those of single attributes, `i_gc_<name>` and `i_vc_<name>`, by the attribute."""
    for prefix in OF_ATTRIBUTE:
        if name.startswith(prefix):
            return f"I({name.removeprefix(prefix)};C)"
    return SYMBOLS.get(name, name)


def _lines(ax: Axes, terms: Mapping[str, NDArray[np.float64]]) -> None:
    taken = {STRONG[name] for name in terms if name in STRONG}
    free = [color for color in PALETTE if color not in taken]
    rest = {name: i for i, name in enumerate(name for name in terms if name not in STRONG)}
    names = []
    for name, values in terms.items():
        style: dict[str, Any] = {"color": STRONG.get(name), "lw": 2.2}
        if name in rest:
            # No two lines look alike before all colours have been used in all dashes.
            dash = ["-", "--", ":"][rest[name] // len(free) % 3]
            style = {"color": free[rest[name] % len(free)], "lw": 1.3, "linestyle": dash}
        marker = "o" if len(values) == 1 else None
        ax.plot(np.arange(1, 1 + len(values)), values, marker=marker, **style)
        finite = values[np.isfinite(values)]
        names.append(_label(name) + (f"  {finite[-1]:.3g}" if len(finite) else "  never used"))
    if names:
        legend_beside(ax, ax.get_lines(), names)


def _mark_end(axes: Sequence[Axes], epoch: int, reason: str, unit: str) -> None:
    for one in axes:
        one.axvline(epoch, color="0.6", linestyle=":", lw=1, zorder=0)
    said = textwrap.fill(f"ended after {unit} {epoch}: {reason}", 70)
    axes[0].set_xlabel(f"{unit}\n{said}", fontsize=SMALL + 1)
