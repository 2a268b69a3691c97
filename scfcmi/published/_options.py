"""What can be set about the published network, each with its range."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import nn

MAX_WIDTH, MAX_LAYERS = 2**20, 64
CHOICES = {
    "branches": ("multi", "single"),
    "centres": ("kmeans", "learned", "mixture"),
    "precision": ("32-true", "bf16-mixed", "16-mixed", "64-true"),
}
# Name: whether zero is possible as well.
NUMBERS = {"alpha": True, "beta": True, "reconstruction": True, "temperature": False, "learning_rate": False}
# Name: least value.
INTEGERS = {"n_latent": 1, "max_epochs": 1, "warmup_epochs": 0, "batch_size": 1}
# Not of plain values: not written to files.
OBJECTS = ("encoder", "decoder", "callback", "checkpoint")


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch, see `NetworkOptions.callback`.

    Parameters
    ----------
    epoch
        Epochs done so far.
    labels
        Most probable cluster of every cell, shape (n_cells,). Where centres are found afresh in every epoch, clusters
        have other numbers each time.
    proba
        p(c|x), shape (n_cells, n_clusters).
    terms
        The loss and every term, mean over the steps of the epoch.
    """

    epoch: int
    labels: NDArray[np.int64]
    proba: NDArray[np.float32]
    terms: dict[str, float]


Callback: TypeAlias = Callable[[EpochReport], None]


@dataclass(frozen=True)
class NetworkOptions:
    """Network, objective and schedule of FCMI as published (Zeng et al., CVPR 2023), and experiments on it.

    The defaults are the published values. Where the authors' code says what the paper leaves open, the code is
    followed: batch norm after the encoder's hidden layers but the last and in the decoder's branches, Tanh at the
    output, k-means afresh in every epoch and its centres constant within it, the last incomplete batch dropped, an
    absent group counted with a tenth of the smallest entry of the joint table, and cells assigned by the centres of
    the last epoch.

    Parameters
    ----------
    alpha
        α ≥ 0, weight of H(C) − H(C|X): compact and balanced clusters.
    beta
        β ≥ 0, weight of I(G;C): clusters that say nothing about the group.
    temperature
        τ > 0 in p(c|x) = softmax(h·Uᵀ/τ); the smaller, the harder the assignments.
    reconstruction
        Weight ≥ 0 of the mean squared error of the reconstruction.
    n_latent
        Width ≥ 1 of the embedding; the number of clusters when absent.
    hidden
        Widths of the encoder's hidden layers, two or more, each ≥ 1. The decoder mirrors them: up to the last but one
        it is shared, from there on every group has its own.
    branches
        `"multi"`, a branch of the decoder for every group, or `"single"`, one for all.
    centres
        How centres are found: `"kmeans"`, afresh in every epoch; `"learned"`, by k-means at the end of the warm-up and
        from then on by gradients; `"mixture"`, as k-means, followed by EM with clusters of any size.
    max_epochs
        Epochs ≥ 1.
    warmup_epochs
        Epochs ≥ 0 of reconstruction alone, at the beginning.
    batch_size
        Cells ≥ 1 of a step. With fewer cells than that, a step takes all.
    learning_rate
        Step > 0 of Adam.
    early_stopping
        Whether to end once the mean of the information terms, by their weights, over 20 epochs is less than 5 % better
        than that of the 20 before. Not published: the authors run all epochs.
    precision
        `"32-true"`; `"bf16-mixed"` or `"16-mixed"`, in which the network works in half precision and the information
        terms do not; `"64-true"`, in which the number of processes does not show either.
    encoder
        A module of one's own, from rows of shape (n, n_columns) to (n, n_latent), instead of the layers in `hidden`.
        It is copied, and starts from the weights that it has. On a GPU, steps of modules that are made of PyTorch's own
        layers are recorded once and replayed; those of others are taken one by one, since their Python may do
        something else each time.
    decoder
        A module of one's own, called with embeddings ordered by group, shape (n, n_latent), and a list with the number
        of rows of every group; it returns shape (n, n_columns), in [−1, 1]. See :class:`GroupBranches`.
    callback
        Called after every epoch with an :class:`EpochReport`.
    checkpoint
        A `.safetensors` file to which the state of the training is written after epochs, and from which the same fit,
        started again after it was cut off, goes on to the same result.

    Raises
    ------
    TypeError, ValueError
        If a value is of another type or out of its range; the message says which.

    Examples
    --------
    >>> from scfcmi.published import NetworkOptions
    >>> NetworkOptions(beta=0).as_params()["beta"]
    0.0
    """

    alpha: float = 0.04
    beta: float = 0.20
    temperature: float = 0.1
    reconstruction: float = 1.0
    n_latent: int | None = None
    hidden: tuple[int, ...] = (1024, 1024, 512, 256)
    branches: Literal["multi", "single"] = "multi"
    centres: Literal["kmeans", "learned", "mixture"] = "kmeans"
    max_epochs: int = 300
    warmup_epochs: int = 20
    batch_size: int = 512
    learning_rate: float = 1e-3
    early_stopping: bool = False
    precision: str = "32-true"
    encoder: nn.Module | None = None
    decoder: nn.Module | None = None
    callback: Callback | None = None
    checkpoint: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        for name, zero in NUMBERS.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real):
                _wrong_type(name, value, "a number")
            number = float(value)
            if not (np.isfinite(number) and (number > 0 or (zero and number == 0))):
                msg = f"{name}={value!r} must be a finite number {'of at least' if zero else 'above'} 0."
                raise ValueError(msg)
            object.__setattr__(self, name, number)
        for name, least in INTEGERS.items():
            value = getattr(self, name)
            if value is None and name == "n_latent":
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                _wrong_type(name, value, "an integer")
            if value < least:
                msg = f"{name}={value} must be at least {least}."
                raise ValueError(msg)
            object.__setattr__(self, name, int(value))
        if self.n_latent is not None and self.n_latent > MAX_WIDTH:
            msg = f"n_latent={self.n_latent} must be at most {MAX_WIDTH}."
            raise ValueError(msg)
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                msg = f"{name}={getattr(self, name)!r} is unknown: use one of {list(known)}."
                raise ValueError(msg)
        self._check_hidden()
        if not isinstance(self.early_stopping, bool | np.bool_):
            _wrong_type("early_stopping", self.early_stopping, "True or False")
        object.__setattr__(self, "early_stopping", bool(self.early_stopping))
        for name in ("encoder", "decoder"):
            if not isinstance(getattr(self, name), nn.Module | None):
                _wrong_type(name, getattr(self, name), "a torch.nn.Module")
        if self.callback is not None and not callable(self.callback):
            _wrong_type("callback", self.callback, "a function")
        if self.checkpoint is not None:
            object.__setattr__(self, "checkpoint", Path(self.checkpoint))

    def _check_hidden(self) -> None:
        try:
            widths = tuple(self.hidden)
        except TypeError:
            _wrong_type("hidden", self.hidden, "a tuple of integers")
        if any(isinstance(width, bool) or not isinstance(width, Integral) for width in widths):
            _wrong_type("hidden", self.hidden, "a tuple of integers")
        if not 2 <= len(widths) <= MAX_LAYERS or not all(1 <= width <= MAX_WIDTH for width in widths):
            msg = f"hidden={self.hidden!r} must be two to {MAX_LAYERS} widths from 1 to {MAX_WIDTH}."
            raise ValueError(msg)
        object.__setattr__(self, "hidden", tuple(int(width) for width in widths))

    def as_params(self) -> dict[str, Any]:
        """Return all plain values, for JSON or `uns`; of own modules, whether there are any.

        Returns
        -------
        A new dictionary of numbers, strings, truth values and a list; `n_latent` is left out when absent.

        Examples
        --------
        >>> from scfcmi.published import NetworkOptions
        >>> NetworkOptions().as_params()["hidden"]
        [1024, 1024, 512, 256]
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in OBJECTS}
        plain["hidden"] = list(self.hidden)
        if self.n_latent is None:
            del plain["n_latent"]
        return plain | {"own_encoder": self.encoder is not None, "own_decoder": self.decoder is not None}

    @classmethod
    def from_params(
        cls, params: dict[str, Any], *, encoder: nn.Module | None = None, decoder: nn.Module | None = None
    ) -> NetworkOptions:
        """Make options from what :meth:`as_params` returned.

        Parameters
        ----------
        params
            The dictionary.
        encoder, decoder
            Own modules, where there were any.

        Returns
        -------
        The options, without callback and checkpoint.

        Raises
        ------
        TypeError, ValueError
            If an entry is unknown, missing, or not valid, or an own module is missing or not called for.

        Examples
        --------
        >>> from scfcmi.published import NetworkOptions
        >>> NetworkOptions.from_params(NetworkOptions(alpha=1).as_params()).alpha
        1.0
        """
        wanted = set(NetworkOptions().as_params())
        wrong = sorted({*wanted, "n_latent"} ^ {*params, "n_latent"})
        if wrong:
            msg = f"The options of the network lack, or have beyond what is known, {wrong[:5]}."
            raise ValueError(msg)
        for name, module in {"encoder": encoder, "decoder": decoder}.items():
            if not isinstance(params[f"own_{name}"], bool) or params[f"own_{name}"] != (module is not None):
                what = "needs one: pass it" if params[f"own_{name}"] else "has none: leave it out"
                msg = f"This network was fitted with {name}s of its own or not, and {what} as `{name}`."
                raise ValueError(msg)
        plain = {name: value for name, value in params.items() if not name.startswith("own_")}
        return cls(**plain, encoder=copy.deepcopy(encoder), decoder=copy.deepcopy(decoder))


def _wrong_type(name: str, value: Any, wanted: str) -> NoReturn:
    msg = f"{name}={value!r} must be {wanted}, not {type(value).__name__}."
    raise TypeError(msg)
