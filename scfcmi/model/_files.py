"""Models on disk: one safetensors file, numbers as tensors and everything else as one JSON document in its header.

Nothing in a file is executed. What a file claims is checked against its own hyperparameters and its size before any
tensor is made.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as parse_tensors
from safetensors.numpy import save as pack_tensors

from scfcmi.source import Factor, Front, Groups
from scfcmi.train import PRESETS, Settings, make_fabric, resolve_device

from ._anchors import Anchors
from ._networks import FCMINet

if TYPE_CHECKING:
    from ._estimator import FCMI

Model = TypeVar("Model", bound="FCMI")
SUFFIX = ".safetensors"
FORMAT, FORMAT_VERSION = "scfcmi.FCMI", 1
# Bounds on what a file may ask for; far beyond any model, and small enough to be looked at without harm.
MAX_HEADER = 64 * 2**20
MAX_WIDTH, MAX_LAYERS, MAX_COUNT = 2**20, 64, 2**31
PACKAGES = ("scfcmi", "torch", "numpy", "safetensors")
# Constructor arguments and what they may be; `None` stands for "decided by the fit".
PARAMS: dict[str, tuple[type, ...]] = {
    "n_clusters": (int, type(None)),
    "preset": (str,),
    "fairness": (float, int, type(None)),
    "sensitive_weight": (list, type(None)),
    "random_state": (int,),
    "device": (str,),
    "devices": (int,),
    "precision": (str,),
    "max_epochs": (int, type(None)),
    "batch_size": (int, type(None)),
    "early_stopping": (bool,),
    "standardize": (bool,),
    "progress_bar": (bool, type(None)),
    # A model on disk is complete: there is nothing to resume.
    "checkpoint": (type(None),),
}
# Arguments, and parts of the description, that came after files of this version were first written.
LATER_PARAMS = ("sensitive_weight", "devices", "early_stopping", "checkpoint")
LATER_FIELDS = ("factors",)
SIZES = ("n_features", "n_input", "n_latent", "n_centres", "n_clusters", "n_anchors")
FIELDS = (
    "format",
    "format_version",
    "params",
    "settings",
    "sizes",
    "levels",
    *LATER_FIELDS,
    "feature_names",
    "length",
    "history",
    "n_clusters_evidence",
    "stopped",
    "versions",
)
Fail = Callable[[str], NoReturn]
DTYPES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def save_model(model: FCMI, path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Write a fitted model to a file that appears complete or not at all."""
    path = Path(path)
    if path.suffix != SUFFIX:
        msg = f"path={str(path)!r} must end with {SUFFIX!r}."
        raise ValueError(msg)
    if not path.parent.is_dir():
        msg = f"The folder {str(path.parent)!r} does not exist. Create it first."
        raise FileNotFoundError(msg)
    if path.is_dir() or (path.exists() and not overwrite):
        msg = f"{str(path)!r} exists. Choose another name, or pass overwrite=True to replace a file."
        raise FileExistsError(msg)
    data = pack_tensors(_tensors(model), metadata={"scfcmi": json.dumps(_document(model), allow_nan=False)})
    temporary = path.with_name(f".{uuid4().hex}{SUFFIX}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_model(cls: type[Model], path: str | os.PathLike[str], *, device: str | None) -> Model:
    """Read and check a file, then make the model."""
    path = Path(path)
    if device is not None:
        resolve_device(device)
    document, spec, tensors = _read(path)
    params = document["params"] | {"device": _device(document["params"]["device"], device)}
    model = cls(**params)
    model.settings_ = spec.settings
    model.groups_ = spec.groups
    names = document["feature_names"]
    model.feature_names_ = None if names is None else tuple(names)
    model.history_ = {name: np.array(values, np.float64) for name, values in document["history"].items()}
    model.n_clusters_evidence_ = {k: np.array(v) if isinstance(v, list) else v for k, v in _items(document)}
    model.stopped_ = dict(document["stopped"])
    model.n_clusters_ = spec.n_clusters
    model.merge_ = tensors.pop("merge")
    model.front_ = model.anchors_ = None
    if spec.settings.consensus:
        arrays = {name: tensors.pop(f"front.{name}") for name in ("mean", "scale", "loadings")}
        model.front_ = Front(**arrays, length=float(document["length"]), height=spec.settings.height)
        model.anchors_ = Anchors(*(tensors.pop(f"anchors.{name}") for name in ("position", "codes")))
    model.n_features_ = spec.n_features
    net = spec.net
    net.load_state_dict(
        {name.removeprefix("net."): torch.from_numpy(value) for name, value in tensors.items()}, assign=True
    )
    fabric = make_fabric(params["device"], "32-true")
    model.net_ = net.to(fabric.device).eval()
    return model


# what is written ----------------------------------------------------------------------------------------------------


def _tensors(model: FCMI) -> dict[str, NDArray[Any]]:
    tensors = {f"net.{name}": value.detach().cpu().numpy() for name, value in model.net_.state_dict().items()}
    tensors["merge"] = np.asarray(model.merge_, np.int64)
    if model.front_ is not None:
        tensors |= {f"front.{name}": getattr(model.front_, name) for name in ("mean", "scale", "loadings")}
    if model.anchors_ is not None:
        tensors |= {f"anchors.{name}": getattr(model.anchors_, name) for name in ("position", "codes")}
    return {name: np.asarray(value, order="C") for name, value in tensors.items()}


def _document(model: FCMI) -> dict[str, Any]:
    centres = model.net_.centres
    sizes = {
        "n_features": model.n_features_,
        "n_input": model.n_features_ if model.front_ is None else model.front_.n_comps,
        "n_latent": centres.shape[1],
        "n_centres": centres.shape[0],
        "n_clusters": model.n_clusters_,
        "n_anchors": 0 if model.anchors_ is None else len(model.anchors_.codes),
    }
    versions = {name: version(name) for name in PACKAGES}
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "params": _plain(model.get_params() | {"checkpoint": None}),
        "settings": _plain(asdict(model.settings_)),
        "sizes": _plain(sizes),
        "levels": list(model.groups_.levels),
        "factors": [_plain(asdict(factor)) for factor in model.groups_.factors],
        "feature_names": None if model.feature_names_ is None else list(model.feature_names_),
        "length": None if model.front_ is None else float(model.front_.length),
        "history": _plain(model.history_),
        "n_clusters_evidence": _plain(model.n_clusters_evidence_),
        "stopped": _plain(model.stopped_),
        "versions": versions | {"python": ".".join(map(str, sys.version_info[:3]))},
    }


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and arrays, and tuples, into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# what is read -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Spec:
    """What the hyperparameters of a file imply."""

    settings: Settings
    net: FCMINet
    n_features: int
    n_clusters: int
    groups: Groups
    shapes: dict[str, tuple[str, tuple[int, ...]]]


def _read(path: Path) -> tuple[dict[str, Any], _Spec, dict[str, NDArray[Any]]]:
    def fail(what: str) -> NoReturn:
        msg = f"{str(path)!r} is not a usable model file: {what}."
        raise ValueError(msg)

    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    if not path.is_file():
        fail("it is not a regular file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if len(start) < 8:
            fail(f"it has {size} bytes, too few for a header; it may be truncated")
        n_header = int.from_bytes(start, "little")
        if n_header > min(size - 8, MAX_HEADER):
            fail(f"its header claims {n_header} bytes, of which {size - 8} follow and at most {MAX_HEADER} are read")
        raw = file.read(n_header)
        header = _json(raw, "header", fail)
        document = _document_of(header, fail)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spec = _implied(document, len(entries), fail)
        _check_entries(entries, spec.shapes, size - 8 - n_header, fail)
        file.seek(0)
        data = file.read(size)
    try:
        tensors = parse_tensors(data)
    except SafetensorError as error:
        fail(f"its tensors cannot be read ({error})")
    tensors = {name: np.array(value) for name, value in tensors.items()}
    _check_values(tensors, spec, fail)
    return document, spec, tensors


def _json(raw: bytes | str, what: str, fail: Fail) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice in one object")
        return found

    def no_constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number that JSON knows")

    try:
        text = raw.decode("utf-8") if isinstance(raw, bytes) else raw
        value = json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        fail(f"its {what} is not valid JSON ({error})")
    if not isinstance(value, dict):
        fail(f"its {what} is not a JSON object")
    return value


def _document_of(header: dict[str, Any], fail: Fail) -> dict[str, Any]:
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("scfcmi"), str):
        fail("its header holds no description of a model; it was written by something else")
    document = _json(metadata["scfcmi"], "description", fail)
    if document.get("format") != FORMAT:
        fail(f"its format is {_short(document.get('format'))}, not {FORMAT!r}")
    if not _is(document.get("format_version"), int) or document["format_version"] != FORMAT_VERSION:
        fail(
            f"its format version is {_short(document.get('format_version'))}, this release of scfcmi reads "
            f"{FORMAT_VERSION}; a newer release may read it"
        )
    _same_names(document, FIELDS, "description", fail, needed=set(FIELDS) - set(LATER_FIELDS))
    for name in ("params", "settings", "sizes", "history", "n_clusters_evidence", "stopped", "versions"):
        if not isinstance(document[name], dict):
            fail(f"{name} is not an object")
    _check_params(document["params"], fail)
    _check_names(document["levels"], "levels", fail)
    if len(document["levels"]) < 2:
        fail("levels has fewer than two groups")
    _check_factors(document, fail)
    _check_sizes(document, fail)
    length = document["length"]
    if length is not None and not (_is_number(length) and length >= 0):
        fail(f"length is {_short(length)}")
    for name, values in document["history"].items():
        if not isinstance(values, list) or not all(_is_number(v) for v in values):
            fail(f"history[{_short(name)}] is not a list of finite numbers")
    for name, value in _items(document):
        items = value if isinstance(value, list) else [value]
        if not all(_is(item, str) or _is_number(item) for item in items) or len({_is(item, str) for item in items}) > 1:
            fail(f"n_clusters_evidence[{_short(name)}] holds neither numbers nor text")
    for name in ("stopped", "versions"):
        if not all(_is(value, str) or _is_number(value) for value in document[name].values()):
            fail(f"{name} holds something other than numbers and text")
    return document


def _check_params(params: dict[str, Any], fail: Fail) -> None:
    _same_names(params, PARAMS, "params", fail, needed=set(PARAMS) - set(LATER_PARAMS))
    for name, value in params.items():
        if not _is(value, *PARAMS[name]) or (_is(value, int, float) and not _is_number(value)):
            fail(f"params[{name!r}] has the wrong type: {_short(value)}")
        if isinstance(value, list) and not all(_is_number(item) for item in value):
            fail(f"params[{name!r}] is not a list of numbers: {_short(value)}")
    if params["preset"] not in PRESETS:
        fail(f"its preset {_short(params['preset'])} is unknown")
    if params["n_clusters"] is not None and params["n_clusters"] < 2:
        fail(f"params['n_clusters'] is {params['n_clusters']}")


def _check_factors(document: dict[str, Any], fail: Fail) -> None:
    """Every attribute says which of its levels each group has, and no two groups are the same combination."""
    factors, n_groups = document.get("factors", []), len(document["levels"])
    if not isinstance(factors, list) or not all(isinstance(factor, dict) for factor in factors):
        fail("factors is not a list of objects")
    for factor in factors:
        _same_names(factor, ("name", "levels", "of_group", "weight"), "factors", fail)
        _check_names(factor["levels"], "levels of a factor", fail)
        of_group, n_levels = factor["of_group"], len(factor["levels"])
        if not isinstance(factor["name"], str) or not _is_number(factor["weight"]) or not 0 <= factor["weight"] <= 1:
            fail(f"a factor has the name {_short(factor['name'])} and the weight {_short(factor['weight'])}")
        if not isinstance(of_group, list) or len(of_group) != n_groups or not all(_is(v, int) for v in of_group):
            fail(f"factor {_short(factor['name'])} does not give every group a level")
        if set(of_group) != set(range(n_levels)):
            fail(f"factor {_short(factor['name'])} names levels beyond the {n_levels} there are, or not all of them")
    _check_names([factor["name"] for factor in factors], "factors", fail)
    if factors and len(set(zip(*(factor["of_group"] for factor in factors), strict=True))) != n_groups:
        fail("factors give two groups the same levels")


def _check_sizes(document: dict[str, Any], fail: Fail) -> None:
    sizes, names = document["sizes"], document["feature_names"]
    _same_names(sizes, SIZES, "sizes", fail)
    for name, value in sizes.items():
        most = MAX_WIDTH if name in ("n_input", "n_latent") else MAX_COUNT
        if not _is(value, int) or not (0 if name == "n_anchors" else 1) <= value <= most:
            fail(f"sizes[{name!r}] is {_short(value)}, not an integer from 1 to {most}")
    if not 2 <= sizes["n_clusters"] <= max(sizes["n_centres"], 2):
        fail(f"it has {sizes['n_clusters']} clusters made of {sizes['n_centres']} centres")
    if names is not None:
        _check_names(names, "feature_names", fail)
        if len(names) != sizes["n_features"]:
            fail(f"feature_names has {len(names)} entries for {sizes['n_features']} features")


def _check_names(names: Any, what: str, fail: Fail) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        fail(f"{what} is not a list of text")
    if len(set(names)) != len(names):
        fail(f"{what} has duplicates")


def _implied(document: dict[str, Any], n_entries: int, fail: Fail) -> _Spec:
    """Work out which tensors the hyperparameters call for, without memory for any."""
    settings = _settings(document["settings"], fail)
    sizes = document["sizes"]
    factors = tuple(
        Factor(f["name"], tuple(f["levels"]), np.array(f["of_group"], np.int64), float(f["weight"]))
        for f in document.get("factors", [])
    )
    groups = Groups(np.empty(0, np.int64), tuple(document["levels"]), factors)
    n_groups = groups.n
    if settings.n_shared is not None and n_entries < n_groups:
        fail(f"it holds {n_entries} tensors, too few for the branches of {n_groups} groups")
    with torch.device("meta"):
        net = FCMINet(
            sizes["n_input"],
            groups.level_index,
            sizes["n_centres"],
            n_latent=sizes["n_latent"],
            hidden=settings.hidden,
            n_shared=settings.n_shared,
            temperature=settings.temperature,
        )
    names = {torch.float32: "F32", torch.int64: "I64"}
    shapes = {f"net.{k}": (names[v.dtype], tuple(v.shape)) for k, v in net.state_dict().items()}
    shapes["merge"] = ("I64", (sizes["n_centres"],))
    if settings.consensus != (document["length"] is not None):
        fail("its length contradicts its settings")
    if settings.consensus:
        n_features, n_input = sizes["n_features"], sizes["n_input"]
        shapes |= {
            "front.mean": ("F32", (n_features,)),
            "front.scale": ("F32", (n_features,)),
            "front.loadings": ("F32", (n_features, n_input - (settings.height > 0))),
            "anchors.position": ("F32", (sizes["n_anchors"], n_input)),
            "anchors.codes": ("I64", (sizes["n_anchors"],)),
        }
    elif sizes["n_features"] != sizes["n_input"] or sizes["n_anchors"]:
        fail("its sizes contradict its settings")
    return _Spec(settings, net, sizes["n_features"], sizes["n_clusters"], groups, shapes)


def _settings(values: dict[str, Any], fail: Fail) -> Settings:
    """Check type and range of every setting; those that came after the file was written take their default."""
    known = {field.name: field for field in fields(Settings)}
    needed = [name for name, field in known.items() if field.default is MISSING]
    _same_names(values, known, "settings", fail, needed=needed)
    checked = dict(values)
    for name, value in values.items():
        kind = str(known[name].type)
        if kind.startswith("tuple"):
            good = isinstance(value, list) and 0 < len(value) <= MAX_LAYERS and all(_is(v, int) for v in value)
            good = good and all(0 < v <= MAX_WIDTH for v in value)
            checked[name] = tuple(value) if good else value
        elif kind.startswith("int"):
            good = (value is None and "None" in kind) or (_is(value, int) and 0 <= value <= MAX_COUNT)
        elif kind == "bool":
            good = _is(value, bool)
        else:
            good = _is_number(value) and value >= 0
        if not good:
            fail(f"settings[{name!r}] is {_short(value)}, not a valid {kind}")
    settings = Settings(**checked)
    if settings.temperature <= 0:
        fail("settings['temperature'] is 0")
    if settings.n_shared is not None and not settings.n_shared <= len(settings.hidden):
        fail(f"settings['n_shared'] is {settings.n_shared} for {len(settings.hidden)} layers")
    return settings


def _check_entries(
    entries: dict[str, Any], shapes: dict[str, tuple[str, tuple[int, ...]]], n_bytes: int, fail: Fail
) -> None:
    """Names, types, shapes and places of all tensors, before any is read."""
    _same_names(entries, shapes, "list of tensors", fail)
    spans = []
    for name, (dtype, shape) in shapes.items():
        entry = entries[name]
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            fail(f"tensor {name!r} is described by {_short(entry)}")
        if entry["dtype"] != dtype or entry["shape"] != list(shape) or not all(_is(v, int) for v in entry["shape"]):
            found = f"{entry['dtype']} {entry['shape']}"
            fail(f"tensor {name!r} is {_short(found)}, but the hyperparameters call for {dtype} {list(shape)}")
        offsets = entry["data_offsets"]
        wanted = int(np.dtype(DTYPES[dtype]).itemsize) * int(np.prod(shape, dtype=object))
        if not (isinstance(offsets, list) and len(offsets) == 2 and all(_is(v, int) for v in offsets)):
            fail(f"tensor {name!r} has the offsets {_short(offsets)}")
        if offsets[0] < 0 or offsets[1] - offsets[0] != wanted:
            fail(f"tensor {name!r} lies at bytes {offsets}, but needs {wanted}")
        spans.append((offsets[0], offsets[1]))
    end = 0
    for first, last in sorted(spans):
        if first != end:
            fail(f"its tensors overlap or leave a gap at byte {end}")
        end = last
    if end != n_bytes:
        fail(f"its tensors need {end} bytes, but {n_bytes} follow the header; it may be truncated")


def _check_values(tensors: dict[str, NDArray[Any]], spec: _Spec, fail: Fail) -> None:
    for name, value in tensors.items():
        if value.dtype.kind == "f" and not np.isfinite(value).all():
            fail(f"tensor {name!r} has NaN or infinite values")
        if name.endswith("running_var") and (value < 0).any():
            fail(f"tensor {name!r} has negative values")
    if (tensors["merge"] < 0).any() or (tensors["merge"] >= spec.n_clusters).any():
        fail(f"tensor 'merge' names clusters beyond the {spec.n_clusters} there are")
    if spec.settings.consensus:
        codes = tensors["anchors.codes"]
        if (tensors["front.scale"] <= 0).any():
            fail("tensor 'front.scale' has values that are not positive")
        if (codes < 0).any() or (codes >= spec.groups.n).any():
            fail(f"tensor 'anchors.codes' names groups beyond the {spec.groups.n} there are")


def _same_names(
    found: Mapping[str, Any], wanted: Iterable[str], what: str, fail: Fail, *, needed: Iterable[str] | None = None
) -> None:
    wanted = set(wanted)
    missing = sorted((wanted if needed is None else set(needed)) - set(found))
    extra = sorted(set(found) - wanted)
    if missing:
        fail(f"its {what} lacks {_short(missing)}")
    if extra:
        fail(f"its {what} has the unknown {_short(extra)}")


def _items(document: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    return document["n_clusters_evidence"].items()


def _is(value: Any, *types: type) -> bool:
    """`isinstance`, but a truth value is no integer."""
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


def _is_number(value: Any) -> bool:
    return _is(value, int, float) and -sys.float_info.max <= value <= sys.float_info.max


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _device(stored: str, wanted: str | None) -> str:
    """Choose the device asked for, that of the fit if it exists here, or the best there is."""
    if wanted is not None:
        return wanted
    try:
        resolve_device(stored)
    except ValueError:
        return "auto"
    return stored
