"""A fit of the published network, and what is kept of it."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from tqdm import tqdm

from scfcmi._device import check_devices, is_first_process, joined, launched_processes, repeatable, resolve_device
from scfcmi._warn import warn
from scfcmi.source import Groups, MatrixSource

from ._checkpoint import Checkpoint, check_checkpoint
from ._network import Decoder, Encoder, Network, log_assignments, reset
from ._options import NetworkOptions
from ._processes import Tell, run_processes
from ._rows import Rows, Scaling, dense, measure, piece
from ._step import State
from ._training import WEIGHTS, embed_all, new_state, stream, train

FORMAT_VERSION = 1


@dataclass(frozen=True)
class PublishedFit:
    """The published network, fitted.

    Expression is brought to [−1, 1], the range of the Tanh at which the network ends, column by column and linearly:
    the smallest value in the cells of the fit becomes −1 and the largest 1. The authors do so with pixels, and squeeze
    other features through a Tanh of their standardised values; that cannot be undone where it saturates, and a line
    can, so that what is decoded is expression again. A matrix within [−1, 1] already is taken as it is.

    Parameters
    ----------
    network
        Encoder and decoder, in float32, not training.
    centres
        Unit-length centres U, largest cluster first, shape (n_clusters, n_latent).
    scaling
        How columns are brought to [−1, 1].
    options
        As given.
    n_groups
        Groups, each with its branch of the decoder.
    history
        The loss and its terms, mean over the steps of an epoch, arrays of shape (n_epochs,): `loss`, `reconstruction`,
        `h_c`, `h_c_given_x`, `i_gc`, `i_xc_given_g`, and with several attributes `i_gc_<name>` for each.
    stopped
        `epoch` and `reason` of the end.
    """

    network: Network
    centres: Tensor
    scaling: Scaling
    options: NetworkOptions
    n_groups: int
    history: Mapping[str, NDArray[np.float64]]
    stopped: Mapping[str, Any]

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.centres)

    @property
    def device(self) -> torch.device:
        """Where the fit works."""
        return self.centres.device

    @property
    def n_input(self) -> int:
        """Columns of the matrix."""
        return len(self.scaling.low)

    @property
    def n_latent(self) -> int:
        """Width of the embedding."""
        return self.centres.shape[1]

    def assign(self, block: Any) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
        """Where cells belong.

        Parameters
        ----------
        block
            Rows with the columns of the fit, dense or sparse, shape (n_cells, n_columns).

        Returns
        -------
        Most probable cluster, shape (n_cells,); p(c|x), shape (n_cells, n_clusters); h, shape (n_cells, n_latent).

        Raises
        ------
        ValueError
            If the number of columns is another one.
        """
        if block.ndim != 2 or block.shape[1] != self.n_input:
            msg = f"The block has shape {tuple(block.shape)}, but the fit has {self.n_input} columns."
            raise ValueError(msg)
        found = []
        step = piece(self.centres.device)
        with torch.inference_mode(), repeatable(self.centres.device):
            for start in range(0, max(block.shape[0], 1), step):
                x = self.scaling.apply(dense(block[start : start + step], self.centres.device))
                h = self.network.embed(x) if len(x) else x.new_empty(0, self.n_latent)
                p = log_assignments(h, self.centres, self.options.temperature).exp()
                found.append((p.argmax(1).cpu().numpy(), p.cpu().numpy(), h.cpu().numpy()))
        labels, proba, embedding = (np.concatenate(part) for part in zip(*found, strict=True))
        return labels, proba, embedding

    def decode(self, embedding: ArrayLike, codes: ArrayLike) -> NDArray[np.float32]:
        """Reconstruct cells through branches of the decoder: what they would look like, had that group measured them.

        Parameters
        ----------
        embedding
            h, shape (n_cells, n_latent).
        codes
            Group through whose branch each goes, shape (n_cells,).

        Returns
        -------
        Array of shape (n_cells, n_columns), in the units of the input.

        Raises
        ------
        ValueError
            If a shape does not fit, or a code is not that of a group.
        """
        h, which = np.asarray(embedding, np.float32), np.asarray(codes)
        if h.ndim != 2 or h.shape[1] != self.n_latent or which.shape != (len(h),):
            msg = f"embedding has shape {h.shape} and codes {which.shape}; (n, {self.n_latent}) and (n,) are needed."
            raise ValueError(msg)
        if len(which) and not (which.dtype.kind in "iu" and which.min() >= 0 and which.max() < self.n_groups):
            msg = f"codes must be integers from 0 to {self.n_groups - 1}, the groups of the fit."
            raise ValueError(msg)
        out = np.empty((len(h), self.n_input), np.float32)
        step = piece(self.centres.device)
        with torch.inference_mode(), repeatable(self.centres.device):
            for start in range(0, len(h), step):
                order = start + np.argsort(which[start : start + step], kind="stable")
                counts = np.bincount(which[order], minlength=self.n_groups).tolist()
                decoded = self.network.decoder(torch.from_numpy(h[order]).to(self.centres.device), counts)
                out[order] = self.scaling.undo(decoded).cpu().numpy()
        return out

    def to(self, device: str | torch.device) -> Self:
        """The same fit on another device; nothing is copied where it is there already.

        Parameters
        ----------
        device
            Where to.

        Returns
        -------
        A fit; the network of this one is moved.
        """
        scaling = Scaling(self.scaling.low.to(device), self.scaling.span.to(device))
        return replace(self, network=self.network.to(device), centres=self.centres.to(device), scaling=scaling)

    def tensors(self) -> dict[str, Tensor]:
        """Everything numeric, on the CPU: what a file holds beside :meth:`meta`.

        Returns
        -------
        Tensors by name.
        """
        own = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        scaling = {"scaling.low": self.scaling.low, "scaling.span": self.scaling.span}
        return {name: v.detach().cpu().contiguous() for name, v in (own | scaling | {"centres": self.centres}).items()}

    def meta(self) -> dict[str, Any]:
        """Everything else, as plain values that JSON keeps.

        Returns
        -------
        A new dictionary.
        """
        return {
            "version": FORMAT_VERSION,
            "options": self.options.as_params(),
            "n_groups": self.n_groups,
            "n_clusters": self.n_clusters,
            "n_input": self.n_input,
            "n_latent": self.n_latent,
            "history": {name: values.tolist() for name, values in self.history.items()},
            "stopped": {"epoch": int(self.stopped["epoch"]), "reason": str(self.stopped["reason"])},
        }

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        meta: Mapping[str, Any],
        *,
        encoder: nn.Module | None = None,
        decoder: nn.Module | None = None,
    ) -> Self:
        """Put a fit together again from what :meth:`tensors` and :meth:`meta` returned.

        All names, types, shapes and values are checked first, and the network takes the tensors as its own: whatever
        they claim, no memory is asked for beyond what is there.

        Parameters
        ----------
        tensors, meta
            The two parts.
        encoder, decoder
            Modules of one's own, where the fit had any, with any weights.

        Returns
        -------
        A fit on the CPU.

        Raises
        ------
        ValueError
            If anything is missing, unknown, of another shape or not finite; the message says what.
        """
        sizes, options = _checked_meta(meta, encoder, decoder)
        n_entries = sum(value.numel() for value in tensors.values())
        if sizes["n_groups"] > n_entries:
            msg = f"n_groups is {sizes['n_groups']}, but there are {n_entries} numbers in all."
            raise ValueError(msg)
        with torch.device("meta"):
            network = _network(options, sizes["n_input"], sizes["n_groups"], sizes["n_clusters"])
        shapes = {f"network.{name}": (value.dtype, value.shape) for name, value in network.state_dict().items()}
        shapes |= {f"scaling.{name}": (torch.float32, torch.Size([sizes["n_input"]])) for name in ("low", "span")}
        shapes["centres"] = (torch.float32, torch.Size([sizes["n_clusters"], sizes["n_latent"]]))
        _check_tensors(tensors, shapes)
        named = {name.removeprefix("network."): v for name, v in tensors.items() if name.startswith("network.")}
        network.load_state_dict(named, assign=True)
        network.requires_grad_(False)
        return cls(
            network.eval(),
            tensors["centres"],
            Scaling(tensors["scaling.low"], tensors["scaling.span"]),
            options,
            sizes["n_groups"],
            {name: np.array(values, np.float64) for name, values in meta["history"].items()},
            dict(meta["stopped"]),
        )


def fit_published(
    source: MatrixSource,
    groups: Groups,
    n_clusters: int,
    options: NetworkOptions,
    *,
    random_state: int,
    device: str,
    devices: int = 1,
    progress_bar: bool | None = None,
) -> PublishedFit:
    """Fit FCMI as published (Zeng et al., CVPR 2023).

    Parameters
    ----------
    source
        Cells, shape (n_cells, n_columns).
    groups
        Group of each.
    n_clusters
        Number of clusters, K.
    options
        Network, objective and schedule.
    random_state
        Seed of weights, batches and starts of k-means. The same seed gives the same labels again, on the CPU with the
        same number of threads; no global generator is touched.
    device
        `"auto"`, `"cpu"`, `"cuda"`, `"cuda:<index>"` or `"mps"`.
    devices
        Processes that share every batch, each on a GPU of its own or all on the CPU. Started by `torchrun`, those that
        it started are used.
    progress_bar
        Show one; when absent, only in a terminal.

    Returns
    -------
    The fit, on the device.

    Raises
    ------
    FileNotFoundError, PermissionError
        If there is no place for the checkpoint.
    FloatingPointError
        If training diverges.
    RuntimeError
        If a process that was started is ended.
    TypeError, ValueError
        If an argument or an own module is not valid, or the checkpoint is damaged or that of another fit.

    Examples
    --------
    >>> import numpy as np
    >>> from scfcmi.published import NetworkOptions, fit_published
    >>> from scfcmi.source import as_source, read_groups
    >>> X = np.random.default_rng(0).normal(size=(60, 5)).astype("float32")
    >>> options = NetworkOptions(hidden=(16, 8), max_epochs=3, warmup_epochs=1, batch_size=30)
    >>> fit = fit_published(as_source(X), read_groups(["a", "b"] * 30), 2, options, random_state=0, device="cpu")
    >>> fit.decode(fit.assign(X)[2], np.zeros(60, int)).shape
    (60, 5)
    """
    n = source.shape[0]
    _check_sizes(n, groups, n_clusters, random_state)
    n_processes = check_devices(device, devices)
    check_checkpoint(options.checkpoint)
    where = torch.device(resolve_device(device))
    if options.precision == "64-true" and where.type == "mps":
        msg = "precision='64-true' is not possible with device='mps'. Use device='cpu'."
        raise ValueError(msg)
    job: dict[str, Any] = {"n_clusters": int(n_clusters), "random_state": int(random_state), "device": str(where)}
    with _bar(options.max_epochs, progress_bar) as tell:
        if n_processes == launched_processes():
            return fit_here(source, groups, options, **job, tell=tell)
        _check_can_be_handed_over(options)
        job["device"] = device
        found = run_processes(n_processes, source, groups, options, job, tell)
    return replace(PublishedFit.from_tensors(*found).to(where), options=options)


def fit_here(
    source: MatrixSource,
    groups: Groups,
    options: NetworkOptions,
    *,
    n_clusters: int,
    random_state: int,
    device: str,
    tell: Tell,
) -> PublishedFit:
    """Fit in this process, with those that a launcher has started beside it; arguments have been checked."""
    where = torch.device(resolve_device(device))
    scaling, digest = measure(source)
    keeper = None
    if options.checkpoint is not None:
        keeper = Checkpoint(Path(options.checkpoint), options, groups, n_clusters, random_state, digest)
    with joined(where), repeatable(where):
        return _fit(source, groups, n_clusters, options, random_state, where, scaling, keeper, tell)


def _fit(
    source: MatrixSource,
    groups: Groups,
    n_clusters: int,
    options: NetworkOptions,
    random_state: int,
    device: torch.device,
    scaling: Scaling,
    keeper: Checkpoint | None,
    tell: Tell,
) -> PublishedFit:
    dtype = torch.float64 if options.precision == "64-true" else torch.float32
    network = _network(options, source.shape[1], groups.n, n_clusters)
    reset(network, torch.Generator().manual_seed(int(stream(random_state, WEIGHTS).integers(2**63))))
    network = network.to(device, dtype)
    rows = Rows(source, scaling, device, dtype)
    n = source.shape[0]
    _check_modules(network, rows, groups, options.n_latent or n_clusters, options)
    state = new_state(network, options, device)
    if keeper is not None:
        keeper.resume(state)

    def after_epoch(state: State) -> None:
        tell(state.history[-1], len(state.history))
        if keeper is not None and is_first_process():
            keeper.write(state, last=len(state.history) == options.max_epochs)

    reason = train(state, rows, groups, n_clusters, options, random_state=random_state, tell=after_epoch)
    assert state.centres is not None
    h = embed_all(network, rows, n)
    sizes = torch.bincount((h @ state.centres.T).argmax(1), minlength=n_clusters)
    order = torch.argsort(sizes, descending=True, stable=True)
    n_live = int((sizes > 0).sum())
    if n_live < n_clusters and is_first_process():
        warn(f"Only {n_live} of {n_clusters} clusters hold cells. Ask for fewer clusters, or lower `beta`.")
    names = list(state.history[0])
    return PublishedFit(
        network.float().eval().requires_grad_(False),
        state.centres[order].float(),
        Scaling(scaling.low.to(device), scaling.span.to(device)),
        options,
        groups.n,
        {name: np.array([row[name] for row in state.history]) for name in names},
        {"epoch": len(state.history), "reason": reason},
    )


def _network(options: NetworkOptions, n_input: int, n_groups: int, n_clusters: int) -> Network:
    """The network that options call for, its weights not yet drawn; own modules are copied."""
    n_latent = options.n_latent or n_clusters
    n_branches = n_groups if options.branches == "multi" else 1
    encoder, decoder = copy.deepcopy(options.encoder), copy.deepcopy(options.decoder)
    if encoder is None:
        encoder = Encoder(n_input, options.hidden, n_latent)
    if decoder is None:
        decoder = Decoder(n_latent, options.hidden, n_input, n_branches)
    centres = torch.zeros(n_clusters, n_latent) if options.centres == "learned" else None
    return Network(encoder, decoder, centres)


def _check_sizes(n: int, groups: Groups, n_clusters: Any, random_state: Any) -> None:
    if len(groups.codes) != n:
        msg = f"groups has {len(groups.codes)} values, but there are {n} cells."
        raise ValueError(msg)
    for name, value, least in (("n_clusters", n_clusters, 2), ("random_state", random_state, 0)):
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            msg = f"{name}={value!r} must be an integer, not {type(value).__name__}."
            raise TypeError(msg)
        if value < least:
            msg = f"{name}={value} must be at least {least}."
            raise ValueError(msg)
    if n_clusters > n:
        msg = f"n_clusters={n_clusters} must be between 2 and the number of cells, {n}."
        raise ValueError(msg)


def _check_modules(network: Network, rows: Rows, groups: Groups, n_latent: int, options: NetworkOptions) -> None:
    """Send one small batch through modules of one's own, which may return anything."""
    if options.encoder is None and options.decoder is None:
        return
    some = np.sort(np.argsort(groups.codes, kind="stable")[: min(len(groups.codes), options.batch_size)])
    some = some[np.argsort(groups.codes[some], kind="stable")]
    counts = np.bincount(groups.codes[some], minlength=groups.n).tolist()
    (x,) = rows.batches(some[None])
    network.eval()
    with torch.no_grad():
        for name, call, width in (
            ("encoder", lambda: network.encoder(x), n_latent),
            ("decoder", lambda: network.decoder(x.new_zeros(len(x), n_latent), counts), x.shape[1]),
        ):
            if getattr(options, name) is None:
                continue
            out = call()
            shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            if shape != (len(x), width):
                msg = f"`{name}` returned {shape} for {len(x)} cells; a tensor of shape {(len(x), width)} is needed."
                raise ValueError(msg)


def _check_can_be_handed_over(options: NetworkOptions) -> None:
    given = [name for name in ("encoder", "decoder", "callback") if getattr(options, name) is not None]
    if given:
        msg = (
            f"devices > 1 starts processes of its own, which do not know the {' and '.join(given)} of this program. "
            "Start the program with torchrun instead, or use devices=1."
        )
        raise ValueError(msg)


@contextmanager
def _bar(n_epochs: int, progress_bar: bool | None) -> Iterator[Tell]:
    """A progress bar; when it is not said whether, only in a terminal."""
    disable = None if progress_bar is None else not progress_bar
    with tqdm(total=n_epochs, desc="FCMI", unit="epoch", disable=disable if is_first_process() else True) as bar:

        def tell(row: Mapping[str, float], epoch: int) -> None:
            bar.set_postfix({name: f"{row[name]:.3f}" for name in ("loss", "i_xc_given_g", "i_gc")}, refresh=False)
            # After resuming, the first epoch is not number one.
            bar.update(epoch - bar.n)

        yield tell


def _checked_meta(
    meta: Mapping[str, Any], encoder: nn.Module | None, decoder: nn.Module | None
) -> tuple[dict[str, int], NetworkOptions]:
    wanted = {"version", "options", "n_groups", "n_clusters", "n_input", "n_latent", "history", "stopped"}
    if set(meta) != wanted:
        msg = f"The description of the network lacks, or has beyond what is known, {sorted(wanted ^ set(meta))[:5]}."
        raise ValueError(msg)
    if meta["version"] != FORMAT_VERSION:
        msg = f"The network is of format version {meta['version']!r}, and {FORMAT_VERSION} is read."
        raise ValueError(msg)
    sizes = {}
    for name, least in (("n_groups", 1), ("n_clusters", 2), ("n_input", 1), ("n_latent", 1)):
        value = meta[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 2**31:
            msg = f"{name} is {value!r}, not an integer of at least {least}."
            raise ValueError(msg)
        sizes[name] = value
    try:
        options = NetworkOptions.from_params(dict(meta["options"]), encoder=encoder, decoder=decoder)
    except (TypeError, KeyError) as error:
        msg = f"The options of the network are not valid: {error}"
        raise ValueError(msg) from error
    if sizes["n_latent"] != (options.n_latent or sizes["n_clusters"]):
        msg = f"n_latent is {sizes['n_latent']}, which contradicts the options."
        raise ValueError(msg)
    history = meta["history"]
    if not isinstance(history, Mapping) or not all(_are_numbers(values) for values in history.values()):
        msg = "The history is not lists of finite numbers by name."
        raise ValueError(msg)
    stopped = meta["stopped"]
    if not isinstance(stopped, Mapping) or set(stopped) != {"epoch", "reason"} or not isinstance(stopped["epoch"], int):
        msg = "`stopped` does not say at which epoch and why."
        raise ValueError(msg)
    return sizes, options


def _are_numbers(values: Any) -> bool:
    return isinstance(values, Sequence) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )


def _check_tensors(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[torch.dtype, torch.Size]]) -> None:
    if set(tensors) != set(shapes):
        msg = (
            f"The tensors of the network lack, or have beyond what is known, {sorted(set(tensors) ^ set(shapes))[:5]}."
        )
        raise ValueError(msg)
    for name, (dtype, shape) in shapes.items():
        found = tensors[name]
        if found.dtype != dtype or found.shape != shape:
            what = f"{found.dtype} {tuple(found.shape)}"
            msg = f"Tensor {name!r} is {what}, but the options call for {dtype} {tuple(shape)}."
            raise ValueError(msg)
        if not torch.isfinite(found).all():
            msg = f"Tensor {name!r} has NaN or infinite values."
            raise ValueError(msg)
        if name.endswith("running_var") and (found < 0).any():
            msg = f"Tensor {name!r} has negative values."
            raise ValueError(msg)
    if (tensors["scaling.span"] <= 0).any():
        msg = "Tensor 'scaling.span' has values that are not positive."
        raise ValueError(msg)
