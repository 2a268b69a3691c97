"""What all figures share: colours for every kind of thing, names that can be read, and legends."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.font_manager import FontProperties
from matplotlib.legend import Legend
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Bbox
from natsort import natsorted

from scfcmi._keys import Keys

Kind = Literal["cluster", "group", "label"]
Size = tuple[float, float]

# Okabe and Ito's seven colours, then those that stay farthest from all before them in normal, protan and deutan vision.
PALETTE = (
    "#0072b2 #d55e00 #009e73 #cc79a7 #e69f00 #56b4e9 #f0e442 #660d1a "
    "#0d00a6 #4d0dff #a61a59 #9973ff #590066 #99bf8c #994d00 #cc0099 "
    "#73ff99 #7300cc #ff4d66 #66400d #99ccff #e626d9 #405973 #99d966 "
    "#593380 #ff80cc #800d4d #d90040 #8099ff #4df2ff #5980cc #267380 "
    "#40e6a6 #d98000 #995959 #e6bf00 #80bf59 #7359ff #e6b3d9 #4d33a6 "
    "#004033 #a6804d #cc99a6 #33b380 #4059b3 #9926d9 #401a80 #73b3bf "
    "#599999 #a6f2bf #596633 #bf80cc #408c80 #0df28c #59598c #662666 "
    "#260de6 #80ccb3 #008ce6 #9973b3 #734040 #5973e6 #4d7399 #bf0073"
).split()
# Chosen alike, and away from the first colours of the palettes above: a colour is to mean one thing in a row of panels.
GROUP_PALETTE = (
    "#14505c #f7a889 #9678e1 #00f0e1 #005a00 #c3e169 #ff6996 #a5871e #784b3c #96a5d2 "
    "#2d3c78 #78875a #964b87 #c3e1b4 #78e1ff #4bb45a #c34b3c #780f3c #2d8778 #ffa5c3 "
    "#0087b4 #f0d287 #4bb4ff #f0a54b #0069c3 #87b4a5 #a55a0f #5a3c96 #a55a69 #3c4b1e "
    "#b487b4 #ff8769 #8787d2 #87d296 #c3874b #a5005a #b48778 #961e2d #872d00 #d25a96"
).split()
LABEL_PALETTE = (
    "#8c2d04 #a6cee3 #690f78 #78d25a #1e694b #ff4b87 #0087ff #96871e #f096ff #ffd2a5 "
    "#695a87 #5ad2b4 #0087b4 #b4785a #0f3ca5 #87002d #f0c33c #ff8787 #691e4b #e1e187 "
    "#00782d #965ad2 #00b4c3 #005aa5 #a50069 #ff964b #b45a69 #c31e2d #9687e1 #699696 "
    "#00c3ff #96a55a #f0d2d2 #a55aa5 #f087c3 #f0694b #4b3c2d #3c5a0f #3c5a69 #8796d2 "
    "#f0a5a5 #3cf0ff #87a500 #d2e15a #a55a00 #693c4b #f0c369 #d2a5e1 #d24b87 #87e196 "
    "#5a963c #3c3c87 #a578a5 #f09678 #d2e1c3 #697869 #b487ff #f0d2ff #874b1e #d287a5 "
    "#b43c4b #4b693c #c32d96 #f0b478"
).split()
PALETTES: dict[Kind, list[str]] = {"cluster": PALETTE, "group": GROUP_PALETTE, "label": LABEL_PALETTE}
SMALL = 8
DARK = 0.3
MAX_LEGEND_COLUMNS, MAX_LEGEND_NAMES = 4, 60
LEGEND_CHARACTERS, LEGEND_LINES = 30, 4
ROW_CHARACTERS, ROW_LINES = 48, 2
# Height of a line of text, and of what is between two names of a legend, over the size of the font.
LINE, BETWEEN_LINES = 1.2, 0.35


# colours ------------------------------------------------------------------------------------------------------------


def paper() -> str:
    """What figures are drawn on, white or dark."""
    for name in ("axes.facecolor", "figure.facecolor"):
        red, green, blue, alpha = to_rgba(mpl.rcParams[name])
        if alpha > 0:
            return to_hex((red, green, blue))
    return "#ffffff"


def ink(strength: float = 1.0) -> str:
    """Colour of text, or a grey between it and the paper."""
    text, ground = np.array(to_rgba(mpl.rcParams["text.color"]))[:3], np.array(to_rgba(paper()))[:3]
    return to_hex(tuple(strength * text + (1 - strength) * ground))


def readable_on(color: Any) -> str:
    """Black or white, whichever can be read on a colour."""
    return "black" if luminance(color) > 0.5 else "white"


def luminance(color: Any) -> float:
    """How light a colour looks, from 0 to 1."""
    red, green, blue = to_rgba(color)[:3]
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _visible(color: str) -> str:
    """The colour itself, or a lighter one where it would drown in a dark background."""
    if luminance(paper()) > DARK or luminance(color) > DARK:
        return color
    return to_hex(tuple(0.6 * np.array(to_rgba(color)[:3]) + 0.4))


def kind_of(adata: AnnData, name: str, key: str) -> Kind:
    """Whether a column holds clusters, groups of a sensitive attribute, or anything else."""
    run = adata.uns.get(Keys(name).uns)
    if name == Keys(key).labels or (isinstance(run, Mapping) and "params" in run):
        return "cluster"
    runs = [one for one in adata.uns.values() if isinstance(one, Mapping) and isinstance(one.get("params"), Mapping)]
    sensitive = {str(one) for run in runs for one in np.atleast_1d(run["params"].get("sensitive_key", ()))}
    return "group" if name in sensitive else "label"


def colors_of(
    adata: AnnData, name: str, categories: Sequence[Hashable], *, kind: Kind = "cluster", palette: Any = None
) -> dict[Hashable, str]:
    """Colour of each category: of `palette` if given, else the one in `uns` where it fits, else of the kind's own.

    The palettes of the package are safe for colour-blind readers, and repeat where there are more categories.
    """
    if palette is None:
        stored = [str(color) for color in np.atleast_1d(adata.uns.get(Keys(name).colors, ()))]
        if len(stored) < len(categories) or not all(mpl.colors.is_color_like(color) for color in stored):
            own = [_visible(color) for color in PALETTES[kind]]
            stored = [own[i % len(own)] for i in range(len(categories))]
        return {category: to_hex(color) for category, color in zip(categories, stored, strict=False)}
    if isinstance(palette, Mapping):
        return _from_mapping(name, categories, palette)
    if isinstance(palette, str):
        if palette not in mpl.colormaps:
            msg = f"palette={palette!r} is no colour map of matplotlib. Name one, or list colours."
            raise ValueError(msg)
        chosen: list[Any] = list(mpl.colormaps[palette].resampled(max(len(categories), 1))(range(len(categories))))
        listed = getattr(mpl.colormaps[palette], "colors", None)
        if listed is not None and len(categories) <= len(listed) < 100:
            chosen = list(listed)
    elif hasattr(palette, "by_key"):
        chosen = palette.by_key().get("color", [])
    else:
        chosen = list(palette)
    wrong = [color for color in chosen if not mpl.colors.is_color_like(color)]
    if wrong or len(chosen) < len(categories):
        found = f"{wrong[0]!r} is no colour" if wrong else f"there are {len(chosen)}"
        msg = f"palette must have a colour for each of the {len(categories)} categories of {name!r}, but {found}."
        raise ValueError(msg)
    return {category: to_hex(color) for category, color in zip(categories, chosen, strict=False)}


def _from_mapping(name: str, categories: Sequence[Hashable], palette: Mapping) -> dict[Hashable, str]:
    named = {str(category): color for category, color in palette.items()}
    missing = [str(category) for category in categories if str(category) not in named]
    if missing:
        msg = f"palette has no colour for {missing[:5]} of {name!r}."
        raise ValueError(msg)
    wrong = [named[str(category)] for category in categories if not mpl.colors.is_color_like(named[str(category)])]
    if wrong:
        msg = f"palette has {wrong[0]!r} for a category of {name!r}, which is no colour."
        raise ValueError(msg)
    return {category: to_hex(named[str(category)]) for category in categories}


# names --------------------------------------------------------------------------------------------------------------


def as_categories(values: pd.Series) -> pd.Series:
    """Categorical with its own order, or natural order; missing values stay missing."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        return values
    return values.astype(pd.CategoricalDtype(natsorted(values.dropna().unique(), key=str), ordered=False))


def plain(text: object) -> str:
    """Text that matplotlib draws as it stands, dollar signs and all."""
    return str(text).replace("$", r"\$")


def display_names(
    names: Sequence[Hashable], *, characters: int = LEGEND_CHARACTERS, lines: int = LEGEND_LINES
) -> list[str]:
    """What is written for each name: all of it, on several lines where it is long, and never the same twice.

    What is longer than the lines allow loses its middle; names that then look alike get a number.
    """
    room = characters * lines
    short = []
    for name in names:
        text = " ".join(str(name).split()) or "(empty)"
        if len(text) > room - lines:  # a line that is broken at a word is not full
            half = (room - lines - 1) // 2
            text = f"{text[:half]}…{text[-half:]}"
        short.append(text)
    count, seen = Counter(short), Counter[str]()
    for place, text in enumerate(short):
        if count[text] > 1:
            seen[text] += 1
            numbered = f"{text} ({seen[text]})"
            while numbered in count:
                seen[text] += 1
                numbered = f"{text} ({seen[text]})"
            short[place] = numbered
    return [wrap(text, characters) for text in short]


def wrap(text: str, characters: int) -> str:
    """Lines of at most so many characters, broken after spaces and the signs that join words."""
    lines = [""]
    for token in re.findall(r"[^\s_/|,;:.-]*[\s_/|,;:.-]*", text):
        if lines[-1] and len(lines[-1]) + len(token.rstrip()) > characters:
            lines.append("")
        lines[-1] += token
        while len(lines[-1].rstrip()) > characters:
            lines[-1:] = [lines[-1][:characters], lines[-1][characters:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


@lru_cache(maxsize=4096)
def _line_width(line: str, fontsize: float, weight: str) -> float:
    return text_to_path.get_text_width_height_descent(line, FontProperties(size=fontsize, weight=weight), False)[0] / 72


def text_size(text: str, fontsize: float = SMALL, weight: str = "normal") -> tuple[float, float]:
    """Width and height of a text in inches."""
    lines = text.split("\n")
    return max(_line_width(line, fontsize, weight) for line in lines), len(lines) * fontsize * LINE / 72


# legends ------------------------------------------------------------------------------------------------------------


def fit_legend(names: Sequence[str], sizes: Sequence[int] | None = None) -> tuple[list[int], str | None]:
    """Positions of the names that a legend has room for, the largest if `sizes` is given, and a line on the rest."""
    if len(names) <= MAX_LEGEND_NAMES:
        return list(range(len(names))), None
    order = range(len(names)) if sizes is None else np.argsort(-np.asarray(sizes), kind="stable")
    kept = sorted(int(i) for i in list(order)[: MAX_LEGEND_NAMES - 1])
    return kept, f"… {len(names) - len(kept)} more" + ("" if sizes is None else ", smaller")


def legend_columns(names: Sequence[str], height: float, fontsize: float = SMALL) -> int:
    """Columns that names need beside a panel of so many inches; as many as are allowed where it is never enough."""
    heights = [text_size(name, fontsize)[1] + BETWEEN_LINES * fontsize / 72 for name in names]
    for columns in range(1, MAX_LEGEND_COLUMNS):
        if max((sum(part) for part in np.array_split(heights, columns)), default=0) <= height:
            return columns
    return MAX_LEGEND_COLUMNS


def legend_beside(
    ax: Axes,
    handles: Sequence[Artist],
    names: Sequence[str],
    *,
    loc: str | None = None,
    title: str | None = None,
    fontsize: float = SMALL,
    at: float = 1.02,
) -> Legend:
    """Legend to the right of the panel, in as many columns as it needs; or inside, at matplotlib's `loc`."""
    height = inches(ax)[1]
    place: dict[str, Any] = {"loc": loc}
    if loc is None:
        place = {"loc": "upper left", "bbox_to_anchor": (at, 1.0), "borderaxespad": 0.0}
    legend = ax.legend(
        list(handles),
        ["x"] * len(names),  # names with a leading underscore would be left out
        ncols=legend_columns(names, height - (0.25 if title else 0.0), fontsize),
        fontsize=fontsize,
        frameon=loc is not None,
        handlelength=1.0,
        handletextpad=0.4,
        columnspacing=0.9,
        labelspacing=BETWEEN_LINES,
        alignment="left",
        **place,
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(plain(name))
    if title:
        legend.set_title(plain(title), prop=FontProperties(size=fontsize, weight="bold"))
    return legend


def despine(ax: Axes) -> None:
    """Leave the two axes that are read."""
    ax.spines[["top", "right"]].set_visible(False)


def inches(ax: Axes) -> Size:
    """Width and height of a panel."""
    box = ax.get_window_extent()
    return box.width / ax.figure.dpi, box.height / ax.figure.dpi


def with_labels(ax: Axes) -> Bbox:
    """The panel and all that is written around it, in pixels."""
    return ax.get_tightbbox() or ax.get_window_extent()


def row_fontsize(ax: Axes, n_rows: int, lines: int = 1, *, largest: float = SMALL) -> float:
    """Size at which so many rows of text do not touch each other in a panel of this height."""
    return max(min(largest, 72 * inches(ax)[1] / max(n_rows, 1) / (lines * LINE)), 1.0)


def thousands(number: float) -> str:
    """A count of cells in at most four characters."""
    if number < 10_000:
        return f"{number:.0f}"
    power = min(int(math.log10(number) // 3), 2)
    value = number / 1000**power
    return f"{value:.1f}".removesuffix(".0") + " kM"[power] if value < 10 else f"{value:.0f}" + " kM"[power]


# axes ---------------------------------------------------------------------------------------------------------------


def new_axes(n: int = 1, *, ncols: int = 1, width: float, height: float) -> list[Axes]:
    """A figure of a given size in inches with `n` panels that share it."""
    nrows, ncols = math.ceil(n / ncols), min(n, ncols)
    figure, grid = plt.subplots(nrows, ncols, figsize=(width, height), squeeze=False, layout="constrained")
    axes = list(grid.ravel())
    for ax in axes[n:]:
        figure.delaxes(ax)
    return axes[:n]


def given_axes(ax: Axes | Sequence[Axes] | None, n: int) -> list[Axes] | None:
    """The caller's panels as a list, `None` where there are none."""
    if ax is None:
        return None
    axes = [ax] if isinstance(ax, Axes) else list(np.ravel(np.asarray(ax, dtype=object)))
    if len(axes) != n or not all(isinstance(one, Axes) for one in axes):
        msg = f"ax must be {n} matplotlib Axes, one per panel, but {len(axes)} objects were given."
        raise ValueError(msg)
    return axes


def should_return(*, show: bool | None, own_figure: bool) -> bool:
    """Show the figure if asked to, or if matplotlib is interactive and the figure ours; else hand back its axes."""
    if show is None:
        show = own_figure and mpl.is_interactive()
    if show:
        plt.show()
    return not show
