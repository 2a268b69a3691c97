"""The estimator: fair clustering with scikit-learn's manners, on arrays and sparse or on-disk matrices."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.utils import Tags, TransformerTags
from sklearn.utils.validation import validate_data
from tqdm import tqdm

from scfcmi._device import (
    check_devices,
    is_first_process,
    joined,
    on_cpu_by_default,
    one_thread,
    repeatable,
    resolve_device,
)
from scfcmi._options import OPTIONS, Preset, check_options
from scfcmi._warn import warn
from scfcmi.published import NetworkOptions, PublishedFit, fit_published
from scfcmi.source import Continuous, Groups, MatrixSource, as_source, one_group, read_continuous, read_groups

from ._evidence import evidence_of, say_alternative
from ._files import Saved, load_model, save_model
from ._fit_default import fit_default
from ._state import Assignment, Registered


class FCMI(ClusterMixin, BaseEstimator):
    """Fair clustering by maximising and minimising mutual information.

    By default, all cells are registered by a mixture whose components move coherently from group to group, with
    proportions of each group's own: the objective of Zeng et al., CVPR 2023, with its branches in closed form and the
    sign of H(C) that cell types need. Communities of the registered cells, and of each community in directions of its
    own, make a tree that is cut. `preset="paper"` is the published network, loss and schedule.

    Parameters
    ----------
    n_clusters
        Number of clusters; where the tree is cut otherwise is `resolution`.
    resolution
        1 cuts where the link between clusters is clearly weaker than inside a homogeneous one. Larger gives more
        clusters; cuts are nested.
    preset
        `"default"`, or `"paper"` for the published network.
    fairness
        β, the weight of I(G;C): from 0, proportions of each group's own, to 1, the same for all. 0 when absent; with
        `preset="paper"` it scales the published weight, and is 1 when absent.
    network
        Options of the published network.
    standardize
        Whether columns are brought to unit variance first: yes for genes, no for a representation such as principal
        components. The paper preset never does.
    random_state
        Seed of everything random; no global generator is touched.
    device
        `"auto"`, `"cpu"`, `"cuda"`, `"cuda:<index>"` or `"mps"`.
    devices
        Processes that share the batches of the published network. The default preset uses the processes that a launcher
        such as `torchrun` has started, and one device otherwise.
    progress_bar
        Show progress; when absent, only in a terminal.

    Attributes
    ----------
    labels_
        Cluster of each cell of the fit, 0 the largest, shape (n_cells,).
    assignment_
        All that is known of them, an :class:`Assignment`.
    n_clusters_
        Number of clusters.
    n_clusters_evidence_
        How it was found.
    state_
        What later cells need, frozen: :class:`Registered`, or :class:`scfcmi.published.PublishedFit`.
    groups_
        The groups of the fit.
    deviation_
        With the default: how far each group was moved in each cluster on top of what it was moved as a whole, in
        standard deviations of the prior, shape (n_groups, n_clusters).
    history_, stopped_
        Terms of the objective, an array each, and why the fit ended.
    n_features_in_, feature_names_
        Columns of the fit, and their names if they were given, or if `X` was a data frame.

    Examples
    --------
    >>> import numpy as np
    >>> from scfcmi.model import FCMI
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 10)) + 6 * np.eye(10)[rng.integers(0, 3, 200)]
    >>> groups = rng.choice(["a", "b"], 200)
    >>> model = FCMI(3, progress_bar=False, device="cpu").fit(X, groups)
    >>> model.predict(X, groups).shape
    (200,)
    """

    def __init__(
        self,
        n_clusters: int | None = None,
        *,
        resolution: float = 1.0,
        preset: Preset = "default",
        fairness: float | None = None,
        network: NetworkOptions | None = None,
        standardize: bool = True,
        random_state: int = 0,
        device: str = "auto",
        devices: int = 1,
        progress_bar: bool | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.resolution = resolution
        self.preset = preset
        self.fairness = fairness
        self.network = network
        self.standardize = standardize
        self.random_state = random_state
        self.device = device
        self.devices = devices
        self.progress_bar = progress_bar

    def fit(
        self,
        X: Any,
        groups: ArrayLike | Mapping[str, ArrayLike] | Groups | None = None,
        *,
        continuous: Mapping[str, ArrayLike] | Continuous | None = None,
        feature_names: Sequence[str] | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> Self:
        """Fit to cells and their groups.

        Parameters
        ----------
        X
            Log-normalised expression or a representation, shape (n_cells, n_columns): array, SciPy sparse matrix, or
            an on-disk matrix that slices by rows.
        groups
            Sensitive attribute of each cell, shape (n_cells,), or several such attributes by name. Then the
            combinations of their levels that occur are the groups, named like `"10x | donor 1"`. All cells are of one
            group when absent.
        continuous
            Numbers that clusters should not depend on either, such as the depth, by name, shape (n_cells,) each.
        feature_names
            Names of the columns, by which those of later cells are matched.
        tell
            Called with a few words at every step of the default.

        Returns
        -------
        The fitted estimator.

        Raises
        ------
        TypeError
            If an option is of another type, or a continuous attribute no number.
        ValueError
            If an option or the input is not valid; the message says which.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50).n_clusters_
        2
        """
        source = as_source(X)
        found = one_group(source.shape[0]) if groups is None else read_groups(groups)
        values = read_continuous(continuous, source.shape[0])
        self._check(source, found, values)
        # Columns of data frames have names, by which scikit-learn knows later ones; groups in files have no shape.
        validate_data(self, X if hasattr(X, "shape") else source, skip_check_array=True)
        names = _feature_names(feature_names, source.shape[1])
        own = getattr(self, "feature_names_in_", ())
        if names is None and 0 < len(set(own)) == source.shape[1]:
            names = tuple(own)
        self._forget()
        with on_cpu_by_default():
            if self.preset == "paper":
                self._fit_as_published(source, found)
            else:
                self._fit_default(source, found, values, tell)
        self.groups_, self.continuous_names_ = found, values.names
        self.feature_names_ = names
        self.n_clusters_evidence_["chosen"] = self.n_clusters_
        self.labels_ = self.assignment_.labels
        return self

    def fit_predict(
        self, X: Any, groups: ArrayLike | Mapping[str, ArrayLike] | Groups | None = None, **kwargs: Any
    ) -> NDArray[np.int64]:
        """Fit, and return the cluster of each cell.

        Parameters
        ----------
        X, groups
            As for :meth:`fit`.
        kwargs
            Further arguments of :meth:`fit`.

        Returns
        -------
        Array of shape (n_cells,).

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, progress_bar=False).fit_predict(X, ["a", "b"] * 50).shape
        (100,)
        """
        return self.fit(X, groups, **kwargs).labels_

    def fit_transform(
        self, X: Any, groups: ArrayLike | Mapping[str, ArrayLike] | Groups | None = None, **kwargs: Any
    ) -> NDArray[np.float32]:
        """Fit, and return registered positions, or the embedding of the published network.

        Parameters
        ----------
        X, groups
            As for :meth:`fit`.
        kwargs
            Further arguments of :meth:`fit`.

        Returns
        -------
        Array of shape (n_cells, n_dims).

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, progress_bar=False).fit_transform(X, ["a", "b"] * 50).shape
        (100, 6)
        """
        return self.fit(X, groups, **kwargs).assignment_.embedding

    def _fit_default(
        self, source: MatrixSource, groups: Groups, values: Continuous, tell: Callable[[str], None] | None
    ) -> None:
        device = torch.device(resolve_device(self.device))
        with (
            joined(device),
            repeatable(device),
            one_thread(),
            _steps(self.progress_bar, tell) as say,
            warnings.catch_warnings(),
        ):
            # Cells that are the same cannot be told apart, which is said below in words of our own.
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = fit_default(
                source,
                groups,
                values,
                n_clusters=self.n_clusters,
                resolution=self.resolution,
                fairness=self.fairness or 0.0,
                standardize=self.standardize,
                random_state=int(self.random_state),
                device=device,
                tell=say,
            )
        self.state_: Registered | PublishedFit = fit.state
        self.registration_ = fit.registration
        self.assignment_ = fit.assignment
        self.deviation_ = fit.deviation
        self.n_clusters_ = fit.state.n_clusters
        self.n_clusters_evidence_ = evidence_of(fit.state.tree, self.n_clusters, self.resolution)
        self.history_ = fit.registration.history
        self.stopped_ = {"epoch": len(self.history_["free_energy"]), "reason": "ran all passes"}
        if self.n_clusters is None:
            say_alternative(fit.state.tree, self.n_clusters_)
        live = len(np.unique(fit.assignment.labels))
        if live < self.n_clusters_:
            msg = f"Only {live} of {self.n_clusters_} clusters hold cells. Ask for fewer, or let the data choose."
            warn(msg)

    def _fit_as_published(self, source: MatrixSource, groups: Groups) -> None:
        options = self.network or NetworkOptions()
        n_clusters = self.n_clusters
        self.n_clusters_evidence_ = {"method": "given"}
        if n_clusters is None:
            chooser = FCMI(
                resolution=self.resolution,
                standardize=self.standardize,
                random_state=self.random_state,
                device=self.device,
                progress_bar=self.progress_bar,
            ).fit(source, groups)
            n_clusters, self.n_clusters_evidence_ = chooser.n_clusters_, chooser.n_clusters_evidence_
        fit = fit_published(
            source,
            groups,
            n_clusters,
            options if self.fairness is None else replace(options, beta=options.beta * self.fairness),
            random_state=self.random_state,
            device=self.device,
            devices=self.devices,
            progress_bar=self.progress_bar,
        )
        self.state_ = fit
        self.n_clusters_ = fit.n_clusters
        self.history_, self.stopped_ = dict(fit.history), dict(fit.stopped)
        parts = [fit.assign(block) for _, block in source.chunks()]
        self.assignment_ = Assignment(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def assign(
        self,
        X: Any,
        groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
        *,
        continuous: Mapping[str, ArrayLike] | Continuous | None = None,
    ) -> Assignment:
        """All that is known of cells, in one pass.

        Parameters
        ----------
        X
            Cells with the columns of the fit, shape (n_cells, n_columns).
        groups
            Their groups, of those of the fit. When absent, each cell is placed by what every group would make of it, as
            likely as it is. The published network needs none.
        continuous
            Numbers, by name, of a model that was fitted with such; typical ones when absent.

        Returns
        -------
        Labels, probabilities and embedding.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> model.assign(X).proba.shape
        (100, 2)
        """
        parts = [part for _, part in self.assign_chunks(X, groups, continuous=continuous)]
        return Assignment.stacked(parts)

    def assign_chunks(
        self,
        X: Any,
        groups: ArrayLike | Mapping[str, ArrayLike] | None = None,
        *,
        continuous: Mapping[str, ArrayLike] | Continuous | None = None,
    ) -> Iterator[tuple[slice, Assignment]]:
        """The same for any number of cells, in bounded memory.

        Parameters
        ----------
        X, groups, continuous
            As for :meth:`assign`; the matrix in memory, on disk or lazy.

        Yields
        ------
        Consecutive rows, and what is known of them.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> [(rows.start, rows.stop, part.proba.shape) for rows, part in model.assign_chunks(X)]
        [(0, 100, (100, 2))]
        """
        source = self._source(X)
        state, n = self.state_, source.shape[0]
        codes = None if groups is None else self.groups_.encode_all(groups, n)
        values = None
        if continuous is not None and isinstance(state, Registered):
            values = read_continuous(continuous, n).named(self.continuous_names_)
        for rows, block in source.chunks():
            with on_cpu_by_default():
                if isinstance(state, PublishedFit):
                    part = Assignment(*state.assign(block))
                else:
                    own = None if codes is None else codes[rows]
                    with one_thread():
                        part = state.assign(block, own, None if values is None else values[rows])
            yield rows, part

    def predict(self, X: Any, groups: ArrayLike | Mapping[str, ArrayLike] | None = None) -> NDArray[np.int64]:
        """Cluster of each cell.

        Parameters
        ----------
        X, groups
            As for :meth:`assign`.

        Returns
        -------
        Array of shape (n_cells,).

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50).predict(X[:3]).shape
        (3,)
        """
        return self.assign(X, groups).labels

    def predict_proba(self, X: Any, groups: ArrayLike | Mapping[str, ArrayLike] | None = None) -> NDArray[np.float32]:
        """p(cluster | cell).

        Parameters
        ----------
        X, groups
            As for :meth:`assign`.

        Returns
        -------
        Array of shape (n_cells, n_clusters); rows sum to one.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50).predict_proba(X).shape
        (100, 2)
        """
        return self.assign(X, groups).proba

    def transform(self, X: Any, groups: ArrayLike | Mapping[str, ArrayLike] | None = None) -> NDArray[np.float32]:
        """Registered positions, or the embedding of the published network.

        Parameters
        ----------
        X, groups
            As for :meth:`assign`.

        Returns
        -------
        Array of shape (n_cells, n_dims).

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50).transform(X).shape
        (100, 6)
        """
        return self.assign(X, groups).embedding

    def decode(self, embedding: ArrayLike, group: str | ArrayLike) -> NDArray[np.float32]:
        """What cells would look like, had a group measured them.

        With the default, a registered position is displaced as the group displaces it there, and brought back to
        columns; what the directions of the front layer do not span stands at its mean, so that decoded cells are
        smoother than measured ones. :func:`scfcmi.tl.correct` works on every gene.

        Parameters
        ----------
        embedding
            Embedding of cells, shape (n_cells, n_dims).
        group
            One group for all of them, or one for each, shape (n_cells,).

        Returns
        -------
        Array of shape (n_cells, n_columns), in the units of the input; values below zero are possible.

        Raises
        ------
        ValueError
            If a shape does not fit, or a group is not one of the fit.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> model.decode(model.transform(X), "b").shape
        (100, 5)
        """
        check_fitted(self)
        h = np.ascontiguousarray(embedding, np.float32)
        if h.ndim != 2 or h.shape[1] != self.n_dims_:
            msg = f"embedding has shape {h.shape}, but this model has {self.n_dims_} dimensions."
            raise ValueError(msg)
        names = np.full(len(h), group) if isinstance(group, str) else np.asarray(group)
        codes = self.groups_.encode(names, "group")
        if codes.shape != (len(h),):
            msg = f"group has shape {codes.shape}, but embedding has {len(h)} rows."
            raise ValueError(msg)
        return self.state_.decode(h, codes)

    @property
    def n_dims_(self) -> int:
        """Dimensions of the embedding."""
        state = self.state_
        return state.n_latent if isinstance(state, PublishedFit) else int(state.look.position.shape[1])

    @property
    def used_device(self) -> str:
        """Where the fitted state is."""
        return str(self.state_.device)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted model to one `.safetensors` file.

        The file holds what later cells need: front layers, mixtures, landmarks as registered positions, the tree; and
        as JSON everything else that the model knows: options, groups, feature names, history. It does not hold
        expression values, nor `assignment_`. It appears complete or not at all.

        Parameters
        ----------
        path
            Where to, ending in `.safetensors`.
        overwrite
            Whether a file of this name may be replaced.

        Raises
        ------
        FileExistsError
            If there is such a file and `overwrite=False`.
        FileNotFoundError
            If the folder does not exist.
        sklearn.exceptions.NotFittedError
            If the model is not fitted.
        ValueError
            If `path` has another suffix.

        Examples
        --------
        >>> import tempfile, numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.safetensors")
        ...     again = FCMI.load(f"{folder}/model.safetensors")
        >>> bool((again.predict(X) == model.predict(X)).all())
        True
        """
        check_fitted(self)
        saved = Saved(
            params={name: getattr(self, name) for name, option in OPTIONS.items() if option.stored},
            network=self.network,
            state=self.state_,
            groups=self.groups_,
            n_features=self.n_features_in_,
            feature_names=self.feature_names_,
            continuous_names=self.continuous_names_,
            history=self.history_,
            n_clusters_evidence=self.n_clusters_evidence_,
            stopped=self.stopped_,
        )
        with on_cpu_by_default():
            save_model(saved, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | None = None) -> Self:
        """Read a model that :meth:`save` wrote.

        Nothing in the file is executed, and all that it claims is checked first, so that files from others can be
        opened. Labels, probabilities and embeddings are those of the saved model, bit by bit on the same machine.

        Parameters
        ----------
        path
            The file.
        device
            Where the model should work; when absent the device of the fit, or the best there is if that is missing.

        Returns
        -------
        A fitted estimator, without what is about the cells of the fit: `labels_`, `assignment_`, `deviation_`.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If it is not a model, damaged, or of another format version; the message says what is wrong.

        Examples
        --------
        >>> from scfcmi.model import FCMI
        >>> FCMI.load("atlas.safetensors")  # doctest: +SKIP
        """
        with on_cpu_by_default():
            saved = load_model(path, device=device)
        model = cls(**saved.params, network=saved.network)
        model.state_, model.groups_, model.n_clusters_ = saved.state, saved.groups, saved.state.n_clusters
        model.n_features_in_, model.feature_names_ = saved.n_features, saved.feature_names
        model.continuous_names_ = saved.continuous_names
        model.history_, model.stopped_ = saved.history, saved.stopped
        model.n_clusters_evidence_ = saved.n_clusters_evidence
        return model

    def _forget(self) -> None:
        """Drop what an earlier fit has left: not all fits set the same."""
        kept = {"n_features_in_", "feature_names_in_"}
        for name in [name for name in vars(self) if name.endswith("_") and name not in kept]:
            delattr(self, name)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags = TransformerTags(preserves_dtype=["float32"])
        tags.input_tags.sparse = True
        return tags

    def _check(self, source: MatrixSource, groups: Groups, values: Continuous) -> None:
        n = source.shape[0]
        check_options({name: getattr(self, name) for name in OPTIONS})
        if n == 0:
            msg = "X has no cells."
            raise ValueError(msg)
        if len(groups.codes) != n:
            msg = f"groups has {len(groups.codes)} values, but there are {n} cells."
            raise ValueError(msg)
        if self.n_clusters is not None and self.n_clusters > n:
            msg = f"n_clusters={self.n_clusters} must be between 1 and the number of cells, {n}."
            raise ValueError(msg)
        if self.preset == "default" and self.network is not None:
            msg = "network holds options of the published network: pass preset='paper' with it."
            raise ValueError(msg)
        if self.preset == "paper" and values.names:
            msg = (
                f"preset='paper' has no place for continuous attributes ({list(values.names)}): use the default preset."
            )
            raise ValueError(msg)
        check_devices(self.device, self.devices)

    def _source(self, X: Any) -> MatrixSource:
        check_fitted(self)
        source = as_source(X)
        validate_data(self, X if hasattr(X, "shape") else source, reset=False, skip_check_array=True)
        return source


def check_fitted(model: FCMI) -> None:
    """Refuse an estimator without a fit.

    Parameters
    ----------
    model
        The estimator.
    """
    if not hasattr(model, "state_"):
        msg = "This model is not fitted. Call `fit` first, or `FCMI.load` a saved one."
        raise NotFittedError(msg)


@contextmanager
def _steps(progress_bar: bool | None, tell: Callable[[str], None] | None) -> Iterator[Callable[[str], None]]:
    """Show steps on one line as they are done; when it is not said whether, only in a terminal."""
    disable = None if progress_bar is None else not progress_bar
    with tqdm(desc="FCMI", unit=" steps", disable=disable if is_first_process() else True) as bar:

        def say(words: str) -> None:
            bar.set_postfix_str(words, refresh=False)
            bar.update()
            if tell is not None:
                tell(words)

        yield say


def _feature_names(names: Sequence[str] | None, n_columns: int) -> tuple[str, ...] | None:
    if names is None:
        return None
    names = tuple(str(name) for name in names)
    if len(names) != n_columns:
        msg = f"feature_names has {len(names)} entries, but X has {n_columns} columns."
        raise ValueError(msg)
    if len(set(names)) < len(names):
        first = next(name for i, name in enumerate(names) if name in names[:i])
        msg = f"feature_names has duplicates (first {first!r}). Make them unique, or leave them out."
        raise ValueError(msg)
    return names
