"""The estimator: FCMI with scikit-learn manners, on arrays and sparse or on-disk matrices."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from numbers import Integral
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from scfcmi._warn import warn
from scfcmi.objective import align, merge_affinity
from scfcmi.objective._alignment import N_ITERATIONS
from scfcmi.source import (
    Continuous,
    Front,
    Groups,
    MatrixSource,
    as_source,
    read_continuous,
    read_groups,
    stratified_sketch,
)
from scfcmi.source._tensors import dense_tensor
from scfcmi.train import (
    PRESETS,
    Preset,
    Settings,
    Targets,
    check_checkpoint,
    check_devices,
    default_epochs,
    embed,
    embed_all,
    epoch_bar,
    is_first_process,
    launched_processes,
    make_fabric,
    make_joint_fabric,
    merge_tree,
    one_thread,
    remove_checkpoint,
    representative_draw,
    train,
    train_in_processes,
)

from ._anchors import N_ANCHORS, Anchors
from ._files import load_model, save_model
from ._networks import FCMINet

# A level has no counterpart when less than this share of its cells have a match; smaller ones are not judged.
FEW_MATCHES, MIN_JUDGED = 0.05, 5
# Parameters that count something, and their least values.
INTEGERS = {"n_clusters": None, "max_epochs": 1, "batch_size": 1, "random_state": 0, "devices": 1}


@dataclass(frozen=True)
class Assignment:
    """Where cells go.

    Parameters
    ----------
    labels
        Cluster of each cell, 0 the largest of the fit, shape (n_cells,).
    proba
        Soft assignments, rows sum to one, shape (n_cells, n_clusters).
    embedding
        Unit-length embedding h, shape (n_cells, n_latent).
    """

    labels: NDArray[np.int64]
    proba: NDArray[np.float32]
    embedding: NDArray[np.float32]


class FCMI:
    """Fair clustering by maximising and minimising mutual information.

    Implements the objective of Zeng et al., CVPR 2023 (`preset="paper"`), and by default the variant for single cells
    that tells technical from compositional differences.

    Parameters
    ----------
    n_clusters
        Number of clusters; chosen from the data when absent.
    preset
        `"default"`, or `"paper"` for the published network, loss and schedule.
    fairness
        From 0, cluster only, to 1, independence of clusters and groups as in the paper; the preset's own value when
        absent.
    sensitive_weight
        Share of `fairness` that each of several attributes gets, from 0 to 1; all of it when absent.
    random_state
        Seed of everything random; no global generator is touched.
    device
        `"auto"`, `"cpu"`, `"cuda"`, `"cuda:<index>"` or `"mps"`.
    devices
        Processes that share every batch, each on a GPU of its own or all on the CPU. They are started for the training
        and end with it; in a program that was started by `torchrun`, the processes that it started are used.
    precision
        Lightning Fabric's precision: `"32-true"`, `"bf16-mixed"`, `"16-mixed"` or `"64-true"`. Information terms are
        computed in float32 at least. In float64, results do not depend on the number of processes or threads either,
        which rounding in float32 does; the fitted network is in float32 in any case.
    max_epochs
        Passes over the training cells; the preset's rule when absent.
    batch_size
        Cells per step; the preset's value when absent.
    early_stopping
        Whether epochs end once the loss has settled; with the paper preset, once its information terms have.
    standardize
        Whether columns are brought to unit variance first: yes for genes, no for a representation such as principal
        components. The paper preset never does.
    progress_bar
        Show one; when absent, only in a terminal.
    checkpoint
        A `.safetensors` file to which the state of the training is written after epochs, and from which the same fit,
        started again after it was cut off, goes on to the same result. It is removed when the fit is complete.

    Examples
    --------
    >>> import numpy as np
    >>> from scfcmi.model import FCMI
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 10)) + 6 * np.eye(10)[rng.integers(0, 3, 200)]
    >>> groups = rng.choice(["a", "b"], 200)
    >>> model = FCMI(3, max_epochs=20, progress_bar=False, device="cpu").fit(X, groups)
    >>> model.predict(X).shape
    (200,)
    """

    def __init__(
        self,
        n_clusters: int | None = None,
        *,
        preset: Preset = "default",
        fairness: float | None = None,
        sensitive_weight: Sequence[float] | None = None,
        random_state: int = 0,
        device: str = "auto",
        devices: int = 1,
        precision: str = "32-true",
        max_epochs: int | None = None,
        batch_size: int | None = None,
        early_stopping: bool = True,
        standardize: bool = True,
        progress_bar: bool | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.preset = preset
        self.fairness = fairness
        self.sensitive_weight = sensitive_weight
        self.random_state = random_state
        self.device = device
        self.devices = devices
        self.precision = precision
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.standardize = standardize
        self.progress_bar = progress_bar
        self.checkpoint = checkpoint

    def get_params(self) -> dict[str, Any]:
        """Return the constructor's arguments by name.

        Returns
        -------
        A new dictionary.

        Examples
        --------
        >>> from scfcmi.model import FCMI
        >>> FCMI(5).get_params()["n_clusters"]
        5
        """
        return {name: value for name, value in vars(self).items() if not name.endswith("_")}

    def used_params(self) -> dict[str, Any]:
        """Return what was decided during the fit: the settings, the device and the number of clusters.

        Returns
        -------
        A new dictionary of plain values.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50).used_params()["max_epochs"]
        2
        """
        settings = {name: np.array(v) if isinstance(v, tuple) else v for name, v in asdict(self.settings_).items()}
        return settings | {"n_clusters": self.n_clusters_, "device": str(self.net_.centres.device)}

    def fit(
        self,
        X: Any,
        groups: ArrayLike | Mapping[str, ArrayLike] | Groups,
        *,
        continuous: Mapping[str, ArrayLike] | Continuous | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> Self:
        """Fit to cells and their groups.

        Parameters
        ----------
        X
            Log-normalised expression or a representation, shape (n_cells, n_columns): array, SciPy sparse matrix, or
            an on-disk matrix that slices by rows.
        groups
            Sensitive attribute of each cell, shape (n_cells,), or several such attributes by name. Then the
            combinations of their levels that occur are the groups, named like `"10x | donor 1"`.
        continuous
            Numbers that clusters should not depend on either, such as the depth, by name, shape (n_cells,) each.
        feature_names
            Names of the columns, by which those of later cells are matched.

        Returns
        -------
        The fitted estimator, with the attributes `n_clusters_`, `n_clusters_evidence_`, `settings_`, `history_`,
        `stopped_`, `n_features_`, `feature_names_`, `unmatched_` (levels of each attribute of which hardly a cell is
        like one of another level), and `assignment_` for the cells it was fitted to.

        Raises
        ------
        TypeError
            If a number that counts something is not an integer, or a continuous attribute no number.
        ValueError
            If a parameter or the input is not valid, or the checkpoint is damaged or that of another run; the message
            says which.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50).n_clusters_
        2
        """
        self._fit(X, groups, continuous=continuous, feature_names=feature_names)
        if self.checkpoint is not None and is_first_process():
            remove_checkpoint(self.checkpoint)
        return self

    def _fit(
        self,
        X: Any,
        groups: ArrayLike | Mapping[str, ArrayLike] | Groups,
        *,
        continuous: Mapping[str, ArrayLike] | Continuous | None = None,
        feature_names: Sequence[str] | None = None,
    ) -> None:
        """Fit, and leave the checkpoint where it is."""
        source = as_source(X)
        self.groups_ = read_groups(groups).weighted(self.sensitive_weight)
        values = read_continuous(continuous, source.shape[0])
        self._check(source)
        names = _feature_names(feature_names, source.shape[1])
        self.n_features_, self.feature_names_ = source.shape[1], names
        self.settings_ = self._settings(source.shape[0])
        fabric = make_fabric(self.device, self.precision)
        if self.settings_.consensus:
            with one_thread():
                self._fit_by_consensus(source, values, fabric)
        else:
            self._fit_as_published(source, values, fabric)
        self.n_clusters_evidence_["chosen"] = self.n_clusters_
        self._number_by_size(source)

    def _fit_by_consensus(self, source: MatrixSource, values: Continuous, fabric: Fabric) -> None:
        """Align a sketch, learn its small clusters, merge them."""
        settings = self.settings_
        rows = stratified_sketch(self.groups_.codes, settings.sketch_size, np.random.default_rng(self.random_state))
        groups = self.groups_.take(rows)
        values, codes = values.take(rows), groups.codes
        # To the front layer and to alignment, quantiles of a value are levels like those of any attribute. The first
        # and the last have few matches until those between have moved, which takes more rounds.
        levels = np.hstack([groups.level_codes, values.bins()])
        block = source.gather(rows)
        front = Front.fit(block, levels, settings.n_comps, standardize=self.standardize, height=settings.height)
        self.front_: Front | None = front
        sketch = front.transform(block)
        weights = [*(factor.weight for factor in groups.factors), *np.ones(len(values.names))]
        strength = settings.align_strength * np.array(weights)
        aligned = align(
            sketch,
            levels,
            n_neighbors=settings.n_align_neighbors,
            n_candidates=settings.n_align_matches,
            n_matches=settings.n_matches,
            n_rounds=N_ITERATIONS * (2 if values.names else 1),
            strength=strength,
        )
        self.unmatched_ = _unmatched(aligned.matched, groups, strength > 0)
        position = aligned.position
        n_fine = min(max(settings.n_fine, self.n_clusters or 0), len(rows))
        affinity = merge_affinity(position, codes, aligned.matches, settings.n_neighbors, settings.n_joint)
        draw = representative_draw(position, affinity, n_fine, self.n_clusters, random_state=self.random_state)
        self.n_clusters_, self.n_clusters_evidence_ = int(draw.n_clusters), draw.evidence
        self._make_net(front.n_comps, front.n_comps, draw.centres)
        self._train(MatrixSource(sketch), groups, values, Targets(position, draw.centres), fabric)
        found = self._fine_proba(embed_all(self.net_, MatrixSource(sketch))).argmax(1).cpu().numpy()
        live, fine = np.unique(found, return_inverse=True)
        # A small cluster that no cell chose has no place in the merging: cells to come must not choose it either.
        self.net_.centres = torch.nn.Parameter(self.net_.centres[torch.from_numpy(live)].detach())
        self.merge_ = merge_tree(fine, affinity).cut(self.n_clusters_)
        kept = stratified_sketch(codes, N_ANCHORS, np.random.default_rng(self.random_state))
        self.anchors_: Anchors | None = Anchors(sketch[kept], codes[kept])

    def _fit_as_published(self, source: MatrixSource, values: Continuous, fabric: Fabric) -> None:
        """Train on the columns as they are, with as many centres as clusters."""
        source.settle()
        if self.n_clusters is None:
            unset = ("fairness", "max_epochs", "batch_size", "checkpoint")
            params = self.get_params() | {"preset": "default", "early_stopping": True} | dict.fromkeys(unset)
            chooser = FCMI(**params).fit(source, self.groups_, continuous=values)
            self.n_clusters_, self.n_clusters_evidence_ = chooser.n_clusters_, chooser.n_clusters_evidence_
        else:
            self.n_clusters_, self.n_clusters_evidence_ = int(self.n_clusters), {"method": "given"}
        self.front_ = self.anchors_ = None
        self.unmatched_ = {}
        self._make_net(source.shape[1], self.n_clusters_, None)
        self._train(source, self.groups_, values, None, fabric)
        self.merge_ = np.arange(self.n_clusters_)

    def _make_net(self, n_input: int, n_latent: int, centres: NDArray[np.float32] | None) -> None:
        settings = self.settings_
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.random_state)
            self.net_ = FCMINet(
                n_input,
                self.groups_.level_index,
                n_latent if centres is None else len(centres),
                n_latent=n_latent,
                hidden=settings.hidden,
                n_shared=settings.n_shared,
                temperature=settings.temperature,
            )
        if centres is not None:
            with torch.no_grad():
                self.net_.centres.copy_(torch.from_numpy(centres))

    def _train(
        self, source: MatrixSource, groups: Groups, values: Continuous, targets: Targets | None, fabric: Fabric
    ) -> None:
        settings = self.settings_
        assert settings.max_epochs is not None
        arguments: dict[str, Any] = {
            "net": self.net_,
            "source": source,
            "groups": groups,
            "targets": targets,
            "settings": settings,
            "continuous": values,
            "random_state": self.random_state,
            "checkpoint": check_checkpoint(self.checkpoint),
        }
        show = self.progress_bar if is_first_process() else False
        with epoch_bar(settings.max_epochs, show) as tell:
            if launched_processes() > 1:
                skips = settings.warmup_epochs > 0
                fabric = make_joint_fabric(self.device, self.precision, skips_parameters=skips)
                record = train(fabric=fabric, tell=tell, **arguments)
            elif self.devices > 1:
                record = train_in_processes(self.devices, self.device, self.precision, tell=tell, **arguments)
                self.net_.to(fabric.device)
            else:
                record = train(fabric=fabric, tell=tell, **arguments)
        self.history_, self.stopped_ = record.history, {"epoch": record.epochs, "reason": record.reason}

    def assign(self, X: Any) -> Assignment:
        """Labels, soft assignments and embedding of cells, in one pass.

        Parameters
        ----------
        X
            Cells with the columns of the fit, shape (n_cells, n_columns).

        Returns
        -------
        The three arrays.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> model.assign(X).proba.shape
        (100, 2)
        """
        return self._assign(self._source(X))

    def assign_chunks(self, X: Any) -> Iterator[tuple[slice, Assignment]]:
        """Labels, soft assignments and embedding of any number of cells, in one pass and bounded memory.

        Parameters
        ----------
        X
            Cells with the columns of the fit, shape (n_cells, n_columns); in memory, on disk or lazy.

        Yields
        ------
        Consecutive rows, and the three arrays for them.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> [(rows.start, rows.stop, part.proba.shape) for rows, part in model.assign_chunks(X)]
        [(0, 100, (100, 2))]
        """
        return self._walk(self._source(X))

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Cluster of each cell.

        Parameters
        ----------
        X
            Cells with the columns of the fit, shape (n_cells, n_columns).

        Returns
        -------
        Array of shape (n_cells,).

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50).predict(X[:3]).shape
        (3,)
        """
        return self.assign(X).labels

    def predict_proba(self, X: Any) -> NDArray[np.float32]:
        """Soft assignments p(c|x).

        Parameters
        ----------
        X
            Cells with the columns of the fit, shape (n_cells, n_columns).

        Returns
        -------
        Array of shape (n_cells, n_clusters); rows sum to one.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50).predict_proba(X).shape
        (100, 2)
        """
        return self.assign(X).proba

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Embedding h = φ(x).

        Parameters
        ----------
        X
            Cells with the columns of the fit, shape (n_cells, n_columns).

        Returns
        -------
        Array of shape (n_cells, n_latent), rows of unit length.

        Examples
        --------
        >>> import numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50).transform(X).shape
        (100, 6)
        """
        return self.assign(X).embedding

    def decode(self, embedding: ArrayLike, group: str | ArrayLike) -> NDArray[np.float32]:
        """Reconstruct cells through the decoder of a group: what they would look like, had it measured them.

        The decoder sees what the network sees. By default that is a projection on a few directions along which cells
        within groups differ, so what groups differ in lies in part outside of it, and what is decoded is smoother than
        expression; :func:`scfcmi.tl.correct` works on every gene.

        Parameters
        ----------
        embedding
            Embedding of cells, shape (n_cells, n_latent).
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
        >>> model = FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> model.decode(model.transform(X), "b").shape
        (100, 5)
        """
        self._check_fitted()
        h = np.ascontiguousarray(embedding, np.float32)
        n_latent = self.net_.centres.shape[1]
        if h.ndim != 2 or h.shape[1] != n_latent:
            msg = f"embedding has shape {h.shape}, but this model has {n_latent} dimensions."
            raise ValueError(msg)
        groups = np.full(len(h), group) if isinstance(group, str) else np.asarray(group)
        codes = self.groups_.encode(groups, "group")
        if codes.shape != (len(h),):
            msg = f"group has shape {codes.shape}, but embedding has {len(h)} rows."
            raise ValueError(msg)
        with torch.inference_mode():
            device = self.net_.centres.device
            z = self.net_.decoder(torch.from_numpy(h).to(device), torch.from_numpy(codes).to(device))
        decoded = z.float().cpu().numpy()
        return decoded if self.front_ is None else self.front_.inverse(decoded)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the fitted model to one `.safetensors` file.

        The file holds the network, the preprocessing, up to 5,000 projected cells of the fit as anchors for
        :func:`scfcmi.tl.map_query`, and as JSON everything else that the model knows: parameters, groups, feature
        names, history. It does not hold expression values, nor `assignment_`. It appears complete or not at all.

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
        RuntimeError
            If the model is not fitted.
        ValueError
            If `path` has another suffix.

        Examples
        --------
        >>> import tempfile, numpy as np
        >>> from scfcmi.model import FCMI
        >>> X = np.random.default_rng(0).normal(size=(100, 5))
        >>> model = FCMI(2, max_epochs=2, progress_bar=False).fit(X, ["a", "b"] * 50)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     model.save(f"{folder}/model.safetensors")
        ...     again = FCMI.load(f"{folder}/model.safetensors")
        >>> bool((again.predict(X) == model.predict(X)).all())
        True
        """
        self._check_fitted()
        save_model(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: str | None = None) -> Self:
        """Read a model that :meth:`save` wrote.

        Nothing in the file is executed, and all that it claims is checked first, so that files from others can be
        opened. Labels, soft assignments and embeddings are those of the saved model, bit by bit on the same machine.

        Parameters
        ----------
        path
            The file.
        device
            Where the model should work; when absent the device of the fit, or the best there is if that is missing.

        Returns
        -------
        A fitted estimator, without `assignment_`.

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
        return load_model(cls, path, device=device)

    def _check_fitted(self) -> None:
        if not hasattr(self, "merge_"):
            msg = "This model is not fitted. Call `fit` first, or `FCMI.load` a saved one."
            raise RuntimeError(msg)

    def _check(self, source: MatrixSource) -> None:
        n = source.shape[0]
        if len(self.groups_.codes) != n:
            msg = f"groups has {len(self.groups_.codes)} values, but there are {n} cells."
            raise ValueError(msg)
        if self.preset not in PRESETS:
            msg = f"preset={self.preset!r} is unknown: use one of {sorted(PRESETS)}."
            raise ValueError(msg)
        for name, least in INTEGERS.items():
            value = getattr(self, name)
            if value is None and name not in ("random_state", "devices"):
                continue
            if isinstance(value, bool) or not isinstance(value, Integral):
                msg = f"{name}={value!r} must be an integer, not {type(value).__name__}."
                raise TypeError(msg)
            if least is not None and value < least:
                msg = f"{name}={value} must be at least {least}."
                raise ValueError(msg)
        if self.n_clusters is not None and not 2 <= self.n_clusters <= n:
            msg = f"n_clusters={self.n_clusters} must be between 2 and the number of cells, {n}."
            raise ValueError(msg)
        if self.fairness is not None and not 0 <= self.fairness <= 1:
            msg = f"fairness={self.fairness} must be between 0 (cluster only) and 1 (independence)."
            raise ValueError(msg)
        check_devices(self.device, self.devices)
        check_checkpoint(self.checkpoint)

    def _settings(self, n_cells: int) -> Settings:
        schedule = {name: getattr(self, name) for name in ("batch_size", "max_epochs")}
        settings = PRESETS[self.preset].with_changes(
            **{name: None if value is None else int(value) for name, value in schedule.items()}, fairness=self.fairness
        )
        if not self.early_stopping:
            settings = replace(settings, patience=None)
        n_training = min(n_cells, settings.sketch_size) if settings.consensus else n_cells
        return settings.with_changes(max_epochs=settings.max_epochs or default_epochs(n_training, settings.batch_size))

    def _source(self, X: Any) -> MatrixSource:
        self._check_fitted()
        source = as_source(X)
        if source.shape[1] != self.n_features_:
            msg = f"X has {source.shape[1]} columns, but the model was fitted with {self.n_features_}."
            raise ValueError(msg)
        return source

    def _fine_proba(self, embedding: NDArray[np.float32] | Tensor) -> Tensor:
        with torch.inference_mode():
            return self.net_.assign(torch.as_tensor(embedding, device=self.net_.centres.device))

    def _clusters(self, embedding: NDArray[np.float32] | Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels and soft assignments, after merging."""
        fine = self._fine_proba(embedding)
        merge = torch.from_numpy(self.merge_).to(fine.device)
        proba = fine @ F.one_hot(merge, self.n_clusters_).float()
        return merge[fine.argmax(1)].cpu().numpy(), proba.cpu().numpy()

    def _walk(self, source: MatrixSource) -> Iterator[tuple[slice, Assignment]]:
        device = self.net_.centres.device
        for rows, block in source.chunks():
            x = dense_tensor(block, device) if self.front_ is None else self.front_.transform_on(device, block)
            h = embed(self.net_, x)
            yield rows, Assignment(*self._clusters(h), h.cpu().numpy())

    def _assign(self, source: MatrixSource) -> Assignment:
        n = source.shape[0]
        labels = np.empty(n, np.int64)
        proba = np.empty((n, self.n_clusters_), np.float32)
        embedding = np.empty((n, self.net_.centres.shape[1]), np.float32)
        for rows, part in self._walk(source):
            labels[rows], proba[rows], embedding[rows] = part.labels, part.proba, part.embedding
        return Assignment(labels, proba, embedding)

    def _number_by_size(self, source: MatrixSource) -> None:
        found = self._assign(source)
        sizes = np.bincount(found.labels, minlength=self.n_clusters_)
        rank = np.empty(self.n_clusters_, np.int64)
        order = np.argsort(-sizes, kind="stable")
        rank[order] = np.arange(self.n_clusters_)
        self.merge_ = rank[self.merge_]
        self.assignment_ = Assignment(rank[found.labels], found.proba[:, order], found.embedding)
        n_live = int((sizes > 0).sum())
        if n_live < self.n_clusters_:
            msg = (
                f"Only {n_live} of {self.n_clusters_} clusters hold cells. Ask for fewer clusters, "
                "let n_clusters=None choose, or lower `fairness`."
            )
            warn(msg)


def _unmatched(matched: NDArray[np.bool_], groups: Groups, is_aligned: NDArray[np.bool_]) -> dict[str, list[str]]:
    """Levels of every aligned attribute of which hardly a cell has a match in another level."""
    found = {}
    for i in np.flatnonzero(is_aligned[: len(groups.factors)]):
        factor, codes = groups.factors[i], groups.level_codes[:, i]
        size = np.bincount(codes, minlength=len(factor.levels))
        share = np.bincount(codes, matched[:, i], len(factor.levels)) / np.maximum(size, 1)
        alone = np.flatnonzero((share < FEW_MATCHES) & (size >= MIN_JUDGED))
        found[factor.name] = [factor.levels[level] for level in alone]
    return found


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
