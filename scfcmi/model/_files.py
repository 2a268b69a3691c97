"""Models on disk: one safetensors file, numbers as tensors and everything else as one JSON document in its header.

Nothing in a file is executed. Sizes, types and places of all tensors are checked against each other, against what the
document calls for and against the size of the file before memory is taken for any of them, and a digest over the whole
file tells whether a byte has changed. What is checked when a file is read is checked when it is written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as pack_tensors
from torch import Tensor

from scfcmi._device import resolve_device
from scfcmi._options import OPTIONS, check_options
from scfcmi._replace import replacing
from scfcmi.communities import Look, Tree
from scfcmi.front import Front
from scfcmi.published import NetworkOptions, PublishedFit
from scfcmi.registration import Design, Mixture
from scfcmi.source import Continuous, Factor, Groups, one_group

from ._state import Registered

Fail = Callable[[str], NoReturn]
SUFFIX = ".safetensors"
FORMAT, FORMAT_VERSION = "scfcmi.FCMI", 2
PACKAGES = ("scfcmi", "torch", "numpy", "safetensors")
# Bytes of a header that are looked at, and how deep looks may be nested; far beyond any model.
MAX_HEADER, MAX_DEPTH = 64 * 2**20, 32
# Beyond this a number is no measurement any more, and its square is infinite in single precision.
LARGEST = 1e18
DTYPES = {"F32": torch.float32, "F64": torch.float64, "I64": torch.int64}
ITEM_SIZES = {"F32": 4, "F64": 8, "I64": 8}
# What stands for the digest while it is computed.
NO_DIGEST = "0" * 64

FIELDS = {
    "format": str,
    "format_version": int,
    "digest": str,
    "preset": str,
    "params": dict,
    "network": (dict, type(None)),
    "state": dict,
    "n_features": int,
    "levels": list,
    "factors": list,
    "continuous_names": list,
    "feature_names": (list, type(None)),
    "history": dict,
    "n_clusters_evidence": dict,
    "stopped": dict,
    "versions": dict,
}
STATE = {"leaves": int, "clusters": int, "fairness": (int, float), "typical": list, "looks": list}
LOOK = {
    "inside": (int, type(None)),
    "branch": (int, type(None)),
    "landmarks": int,
    "components": int,
    "directions": int,
    "length": (int, float),
    "height": (int, float),
}


@dataclass(frozen=True)
class Part:
    """A tensor of the default preset: its type, the names of its sizes, and the range of its values.

    Parameters
    ----------
    dtype
        As safetensors calls it.
    sizes
        Names of its sizes.
    least, most
        Values from here to there, both included; for indices, `most` is the name of the size below which they are.
    sums_to_one
        Whether rows are proportions.
    """

    dtype: str
    sizes: tuple[str, ...]
    least: float = -LARGEST
    most: float | str = LARGEST
    sums_to_one: bool = False


POSITIVE = 1e-30
OF_A_LOOK = {
    "front.mean": Part("F32", ("columns",)),
    "front.scale": Part("F32", ("columns",), POSITIVE),
    "front.loadings": Part("F32", ("columns", "directions")),
    "front.weights": Part("F32", ("directions",), POSITIVE),
    "mixture.means": Part("F32", ("components", "dims")),
    "mixture.variances": Part("F32", ("components",), POSITIVE),
    "mixture.shares": Part("F32", ("groups", "components"), 0, 1.001, sums_to_one=True),
    "mixture.moves": Part("F32", ("groups", "components", "dims")),
    "mixture.slopes": Part("F32", ("smooth", "components", "dims")),
    "mixture.sizes": Part("F32", ("groups",), 0, 1.001, sums_to_one=True),
    "position": Part("F32", ("landmarks", "dims")),
    "component": Part("I64", ("landmarks",), 0, "components"),
    "leaf": Part("I64", ("landmarks",), 0, "leaves"),
    "branch": Part("I64", ("landmarks",), 0, "landmarks"),
}
OF_ALL = {
    "tree.merges": Part("I64", ("steps", "two"), 0, "nodes"),
    "tree.link": Part("F64", ("steps",), 0),
    "cluster_of_leaf": Part("I64", ("leaves",), 0, "clusters"),
    "design.knots": Part("F64", ("numbers", "knots"), -1e300, 1e300),
}


@dataclass(frozen=True)
class Saved:
    """What a file holds of a fitted model.

    Parameters
    ----------
    params, network
        Options of the estimator, and those of the published network.
    state, groups
        The fit, and the groups that it knows.
    n_features, feature_names
        Columns, and their names if they have any.
    continuous_names
        Names of the continuous attributes.
    history, n_clusters_evidence, stopped
        Terms of the objective, how the number of clusters was found, and why the fit ended.
    """

    params: Mapping[str, Any]
    network: NetworkOptions | None
    state: Registered | PublishedFit
    groups: Groups
    n_features: int
    feature_names: tuple[str, ...] | None
    continuous_names: tuple[str, ...]
    history: dict[str, NDArray[np.float64]]
    n_clusters_evidence: dict[str, Any]
    stopped: dict[str, Any]


def save_model(saved: Saved, path: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Write a fitted model to a file that appears complete or not at all."""
    path = check_model_path(path, overwrite=overwrite)

    def fail(what: str) -> NoReturn:
        msg = f"The model cannot be saved: {what}."
        raise ValueError(msg)

    document, tensors = _taken_apart(saved, fail)
    _check_document(document, fail)
    found = {name: (_name_of(value.dtype), tuple(value.shape)) for name, value in tensors.items()}
    _check_shapes(found, document, fail)
    _put_together(document, tensors, "cpu", fail)
    arrays = {name: value.numpy() for name, value in tensors.items()}
    data = pack_tensors(arrays, metadata={"scfcmi": json.dumps(document, allow_nan=False)})
    n_header = int.from_bytes(data[:8], "little")
    if n_header > MAX_HEADER:
        fail(f"its names take {n_header} bytes, and at most {MAX_HEADER} are read")
    digest = hashlib.sha256(data).hexdigest().encode()
    with replacing(path) as new, new.open("wb") as file:
        file.write(data[: 8 + n_header].replace(NO_DIGEST.encode(), digest, 1))
        file.write(memoryview(data)[8 + n_header :])


def check_model_path(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Refuse a place where no model can be written."""
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
    return path


def load_model(path: str | os.PathLike[str], *, device: str | None) -> Saved:
    """Read and check a file; the model works on a device, by default that of the fit if it exists here."""
    path = Path(path)
    if device is not None:
        resolve_device(device)

    def fail(what: str) -> NoReturn:
        msg = f"{str(path)!r} is not a usable model file: {what}."
        raise ValueError(msg)

    if not path.exists():
        msg = f"There is no file {str(path)!r}."
        raise FileNotFoundError(msg)
    if not path.is_file():
        fail("it is not a regular file")
    document, tensors = _read(path, fail)
    params = document["params"] | {"device": _device(document["params"]["device"], device)}
    state = _put_together(document, tensors, resolve_device(params["device"]), fail)
    network, names, evidence = document["network"], document["feature_names"], document["n_clusters_evidence"]
    return Saved(
        params=params,
        network=None if network is None else NetworkOptions.from_params(network),
        state=state,
        groups=_groups(document),
        n_features=document["n_features"],
        feature_names=None if names is None else tuple(names),
        continuous_names=tuple(document["continuous_names"]),
        history={name: np.array(values, np.float64) for name, values in document["history"].items()},
        n_clusters_evidence={k: np.array(v) if isinstance(v, list) else v for k, v in evidence.items()},
        stopped=document["stopped"],
    )


# a model in parts ---------------------------------------------------------------------------------------------------


def _taken_apart(saved: Saved, fail: Fail) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a file says, and what it holds."""
    state = saved.state
    if isinstance(state, PublishedFit):
        if state.options.encoder is not None or state.options.decoder is not None:
            fail("its network has modules of your own, which no file can hold; save their weights yourself")
        described = {name: value for name, value in state.meta().items() if name not in ("history", "stopped")}
        preset, tensors = "paper", state.tensors()
    else:
        preset, (described, tensors) = "default", _registered_taken_apart(state)
    names = saved.feature_names
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "digest": NO_DIGEST,
        "preset": preset,
        "params": saved.params,
        "network": None if saved.network is None else saved.network.as_params(),
        "state": described,
        "n_features": saved.n_features,
        "levels": list(saved.groups.levels),
        "factors": [
            {"name": factor.name, "levels": list(factor.levels), "of_group": factor.of_group}
            for factor in saved.groups.factors
        ],
        "continuous_names": list(saved.continuous_names),
        "feature_names": None if names is None else list(names),
        "history": saved.history,
        "n_clusters_evidence": saved.n_clusters_evidence,
        "stopped": saved.stopped,
        "versions": {name: version(name) for name in PACKAGES} | {"python": ".".join(map(str, sys.version_info[:3]))},
    }
    return _plain(document), tensors


def _registered_taken_apart(state: Registered) -> tuple[dict[str, Any], dict[str, Tensor]]:
    looks: list[dict[str, Any]] = []
    tensors: dict[str, Any] = {
        "tree.merges": state.tree.merges,
        "tree.link": state.tree.link,
        "cluster_of_leaf": state.cluster_of_leaf,
        "design.knots": state.design.knots,
    }

    def add(look: Look, inside: int | None, branch: int | None) -> None:
        number = len(looks)
        sizes = {"landmarks": len(look.leaf), "components": look.mixture.n_components}
        front = {"directions": look.front.loadings.shape[1], "length": look.front.length, "height": look.front.height}
        looks.append({"inside": inside, "branch": branch, **sizes, **front})
        for name in OF_A_LOOK:
            value: Any = look
            for attribute in name.split("."):
                value = getattr(value, attribute)
            tensors[f"looks.{number}.{name}"] = value
        for which in sorted(look.closer):
            add(look.closer[which], number, which)

    add(state.look, None, None)
    described = {
        "leaves": state.tree.n_leaves,
        "clusters": state.n_clusters,
        "fairness": state.fairness,
        "typical": list(state.typical),
        "looks": looks,
    }
    return described, {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in tensors.items()}


def _put_together(
    document: dict[str, Any], tensors: dict[str, Tensor], device: str, fail: Fail
) -> Registered | PublishedFit:
    """The state, after a look at all values."""
    if document["preset"] == "paper":
        meta = document["state"] | {"history": document["history"], "stopped": document["stopped"]}
        try:
            return PublishedFit.from_tensors(tensors, meta).to(device)
        except (TypeError, ValueError) as error:
            fail(str(error).rstrip("."))
    arrays = {name: value.numpy() for name, value in tensors.items()}
    sizes = _sizes(document)
    for name, part, of_look in _parts(document):
        _check_values(name, arrays[name], part, sizes | of_look, fail)
    state = document["state"]
    tree = Tree(arrays["tree.merges"], arrays["tree.link"])
    _check_tree(tree, arrays["cluster_of_leaf"], state["clusters"], fail)
    if (np.diff(arrays["design.knots"], axis=1) < 0).any():
        fail("quantiles of a number fall, in tensor 'design.knots'")
    looks: dict[int, Look] = {}
    for i in reversed(range(len(state["looks"]))):
        closer = {other["branch"]: looks[j] for j, other in enumerate(state["looks"]) if other["inside"] == i}
        looks[i] = _look(i, state["looks"][i], arrays, tensors, dict(sorted(closer.items())), device, fail)
    groups = _groups(document)
    levels = np.stack([factor.of_group for factor in groups.factors], axis=1)
    return Registered(
        looks[0],
        tree,
        arrays["cluster_of_leaf"],
        Design(levels, arrays["design.knots"]),
        float(state["fairness"]),
        (float(state["typical"][0]), float(state["typical"][1])),
    )


def _look(
    i: int,
    described: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    tensors: dict[str, Tensor],
    closer: dict[int, Look],
    device: str,
    fail: Fail,
) -> Look:
    def of(what: str) -> dict[str, str]:
        names = [name.removeprefix(what) for name in OF_A_LOOK if name.startswith(what)]
        return {name: f"looks.{i}.{what}{name}" for name in names}

    front = {name: arrays[place] for name, place in of("front.").items()}
    mixture = {name: tensors[place].to(device) for name, place in of("mixture.").items()}
    leaf, branch = arrays[f"looks.{i}.leaf"], arrays[f"looks.{i}.branch"]
    for which, look in closer.items():
        if not np.array_equal(leaf[branch == which], look.leaf):
            fail(f"the closer look at branch {which} of look {i} has other landmarks, or gives them other leaves")
    return Look(
        Front(**front, length=float(described["length"]), height=float(described["height"])),
        Mixture(**mixture),
        tensors[f"looks.{i}.position"].to(device),
        tensors[f"looks.{i}.component"].to(device),
        leaf,
        branch,
        closer,
    )


def _groups(document: dict[str, Any]) -> Groups:
    factors = tuple(
        Factor(f["name"], tuple(f["levels"]), np.array(f["of_group"], np.int64)) for f in document["factors"]
    )
    return Groups(np.empty(0, np.int64), tuple(document["levels"]), factors)


def _plain(value: Any) -> Any:
    """Turn NumPy's numbers and arrays, and tuples, into what JSON knows."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


# what is read -------------------------------------------------------------------------------------------------------


def _read(path: Path, fail: Fail) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Document and tensors; each tensor is read to where it stays, so that there is no second copy of anything."""
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
        entries = _entries(header, size - 8 - n_header, fail)
        _check_document(document, fail)
        _check_shapes({name: (entry.dtype, entry.shape) for name, entry in entries.items()}, document, fail)
        digest = document["digest"].encode()
        if raw.count(digest) != 1:
            fail("its digest stands in it more than once")
        seen = hashlib.sha256(start + raw.replace(digest, NO_DIGEST.encode()))
        tensors = {}
        for name, entry in entries.items():
            tensors[name] = torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
            buffer: Any = tensors[name].numpy().reshape(-1).view(np.uint8)
            if file.readinto(buffer) != len(buffer):
                fail(f"it ends within tensor {name!r}; it may be truncated")
            seen.update(buffer)
    if seen.hexdigest().encode() != digest:
        fail("it is damaged: its contents are not those that were written")
    return document, tensors


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
    found = document.get("format_version")
    if _is(found, int) and found == 1:
        fail("it was fitted by scfcmi 0.1, whose models this release cannot use; fit again")
    if not _is(found, int) or found != FORMAT_VERSION:
        fail(
            f"its format version is {_short(found)}, this release of scfcmi reads {FORMAT_VERSION}; a newer release "
            "may read it"
        )
    return document


@dataclass(frozen=True)
class _Entry:
    dtype: str
    shape: tuple[int, ...]
    first: int


def _entries(header: dict[str, Any], n_bytes: int, fail: Fail) -> dict[str, _Entry]:
    """Tensors in the order in which they lie; together they are all that follows the header, and nothing twice."""
    found = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            fail(f"tensor {_short(name)} is described by {_short(entry)}")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            fail(f"tensor {_short(name)} is of the type {_short(dtype)}")
        if not isinstance(shape, list) or len(shape) > 4 or not all(_is(v, int) and v >= 0 for v in shape):
            fail(f"tensor {_short(name)} has the shape {_short(shape)}")
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is(v, int) for v in offsets):
            fail(f"tensor {_short(name)} has the offsets {_short(offsets)}")
        wanted = ITEM_SIZES[dtype]
        for n in shape:
            wanted *= n
        if offsets[0] < 0 or offsets[1] - offsets[0] != wanted:
            fail(f"tensor {_short(name)} lies at bytes {_short(offsets)}, but needs {_short(wanted)}")
        found[name] = (offsets[0], offsets[1], _Entry(dtype, tuple(shape), offsets[0]))
    end, entries = 0, {}
    for name, (first, last, entry) in sorted(found.items(), key=lambda item: item[1][:2]):
        if first != end:
            fail(f"its tensors overlap or leave a gap at byte {_short(end)}")
        end, entries[name] = last, entry
    if end != n_bytes:
        fail(f"its tensors need {_short(end)} bytes, but {n_bytes} follow the header; it may be truncated")
    return entries


# what has to hold, in a file and in a model -------------------------------------------------------------------------


def _check_document(document: dict[str, Any], fail: Fail) -> None:
    _check_numbers(document, fail)
    _check_types(document, FIELDS, "description", fail)
    if not re.fullmatch("[0-9a-f]{64}", document["digest"]):
        fail(f"its digest is {_short(document['digest'])}")
    _check_params(document, fail)
    _check_names(document["levels"], "levels", fail)
    if not document["levels"]:
        fail("levels names no group")
    _check_factors(document, fail)
    _check_names(document["continuous_names"], "continuous_names", fail)
    if document["n_features"] < 1:
        fail(f"n_features is {document['n_features']}")
    if (names := document["feature_names"]) is not None:
        _check_names(names, "feature_names", fail)
        if len(names) != document["n_features"]:
            fail(f"feature_names has {len(names)} entries for {document['n_features']} features")
    for name, values in document["history"].items():
        if not isinstance(values, list) or not all(_is(v, int, float) for v in values):
            fail(f"history[{_short(name)}] is not a list of numbers")
    for name, value in document["n_clusters_evidence"].items():
        items = value if isinstance(value, list) else [value]
        if not all(_is(item, str, int, float) for item in items) or len({_is(item, str) for item in items}) > 1:
            fail(f"n_clusters_evidence[{_short(name)}] holds neither numbers nor text")
    for name in ("stopped", "versions"):
        if not all(_is(value, str, int, float) for value in document[name].values()):
            fail(f"{name} holds something other than numbers and text")
    if document["preset"] == "default":
        _check_state(document, fail)


def _check_numbers(value: Any, fail: Fail) -> None:
    """Integers that fit into 64 bits, and finite fractions."""
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_numbers(item, fail)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        fail(f"it has the number {_short(value)}")
    elif isinstance(value, float) and not -sys.float_info.max <= value <= sys.float_info.max:
        fail(f"it has the number {value}")


def _check_types(found: dict[str, Any], wanted: Mapping[str, Any], what: str, fail: Fail) -> None:
    """Exactly these entries, of these types."""
    _check_same(found, wanted, what, fail)
    for name, types in wanted.items():
        if not _is(found[name], *(types if isinstance(types, tuple) else (types,))):
            fail(f"{name} in its {what} is {_short(found[name])}")


def _check_same(found: Iterable[str], wanted: Iterable[str], what: str, fail: Fail) -> None:
    found, wanted = set(found), set(wanted)
    if missing := sorted(wanted - found):
        fail(f"its {what} lacks {_short(missing)}")
    if extra := sorted(found - wanted):
        fail(f"its {what} has the unknown {_short(extra)}")


def _check_params(document: dict[str, Any], fail: Fail) -> None:
    params, network = document["params"], document["network"]
    known = {name: option for name, option in OPTIONS.items() if option.stored}
    _check_same(params, known, "params", fail)
    try:
        check_options(params)
        if network is not None:
            NetworkOptions.from_params(network)
    except (TypeError, ValueError, KeyError) as error:
        fail(f"its options are not valid ({error})")
    if not isinstance(params["device"], str):
        fail(f"its device is {_short(params['device'])}")
    # `params` may have been set since the fit; what was fitted is what the state is.
    if document["preset"] not in ("default", "paper"):
        fail(f"its preset {_short(document['preset'])} is unknown")


def _check_factors(document: dict[str, Any], fail: Fail) -> None:
    """Every attribute says which of its levels each group has, and no two groups are the same combination."""
    factors, n_groups = document["factors"], len(document["levels"])
    for factor in factors:
        if not isinstance(factor, dict):
            fail("factors is not a list of objects")
        _check_types(factor, {"name": str, "levels": list, "of_group": list}, "factors", fail)
        _check_names(factor["levels"], "levels of a factor", fail)
        of_group, n_levels = factor["of_group"], len(factor["levels"])
        if len(of_group) != n_groups or not all(_is(v, int) for v in of_group):
            fail(f"factor {_short(factor['name'])} does not give every group a level")
        if set(of_group) != set(range(n_levels)):
            fail(f"factor {_short(factor['name'])} names levels beyond the {n_levels} there are, or not all of them")
    _check_names([factor["name"] for factor in factors], "factors", fail)
    if len(set(zip(*(factor["of_group"] for factor in factors), strict=True))) != n_groups:
        fail("factors give two groups the same levels")


def _check_names(names: list[Any], what: str, fail: Fail) -> None:
    if not all(isinstance(name, str) for name in names):
        fail(f"{what} is not a list of text")
    if len(set(names)) != len(names):
        fail(f"{what} has duplicates")


def _check_state(document: dict[str, Any], fail: Fail) -> None:
    """Sizes, and which look is inside which."""
    state = document["state"]
    _check_types(state, STATE, "state", fail)
    if not 1 <= state["clusters"] <= state["leaves"]:
        fail(f"it has {state['clusters']} clusters made of {state['leaves']} leaves")
    if not 0 <= state["fairness"] <= 1:
        fail(f"fairness in its state is {_short(state['fairness'])}")
    typical = state["typical"]
    if len(typical) != 2 or not all(_is(v, int, float) for v in typical) or typical[1] <= 0:
        fail(f"typical is {_short(typical)}")
    if not state["looks"]:
        fail("it has no look")
    depth: list[int] = []
    seen = set()
    for i, look in enumerate(state["looks"]):
        if not isinstance(look, dict):
            fail(f"look {i} is {_short(look)}")
        _check_types(look, LOOK, f"look {i}", fail)
        for name in ("landmarks", "components", "directions"):
            if look[name] < 1:
                fail(f"{name} in its look {i} is {look[name]}")
        if not POSITIVE <= look["length"] <= LARGEST or not 0 <= look["height"] <= LARGEST:
            fail(f"look {i} has the length {look['length']} and the height {look['height']}")
        inside, branch = look["inside"], look["branch"]
        first = i == 0
        if (inside is None) != first or (branch is None) != first or (inside is not None and not 0 <= inside < i):
            fail(f"look {i} is inside {_short(inside)}, branch {_short(branch)}")
        depth.append(0 if inside is None else depth[inside] + 1)
        if (inside, branch) in seen or depth[i] > MAX_DEPTH:
            fail(f"look {i} is a second one at its branch, or too deep")
        seen.add((inside, branch))


def _sizes(document: dict[str, Any]) -> dict[str, int]:
    """Sizes by name, but for those of looks."""
    n_leaves, numbers = document["state"]["leaves"], len(document["continuous_names"])
    like = Design.of(one_group(2), Continuous(("any",), np.zeros((2, 1))))
    return {
        "columns": document["n_features"],
        "groups": len(document["levels"]),
        "numbers": numbers,
        "knots": like.knots.shape[1],
        "smooth": numbers * like.n_smooth,
        "leaves": n_leaves,
        "steps": n_leaves - 1,
        "nodes": 2 * n_leaves - 1,
        "two": 2,
        "clusters": document["state"]["clusters"],
    }


def _parts(document: dict[str, Any]) -> Iterator[tuple[str, Part, dict[str, int]]]:
    """Names of all tensors, what they have to be, and the sizes of the look that they belong to."""
    for name, part in OF_ALL.items():
        yield name, part, {}
    for i, look in enumerate(document["state"]["looks"]):
        sizes = {name: look[name] for name in ("landmarks", "components", "directions")}
        sizes["dims"] = look["directions"] + (look["height"] > 0)
        for name, part in OF_A_LOOK.items():
            yield f"looks.{i}.{name}", part, sizes


def _check_shapes(found: Mapping[str, tuple[str, tuple[int, ...]]], document: dict[str, Any], fail: Fail) -> None:
    """The tensors that the document calls for; those of the published network are checked by itself."""
    if document["preset"] == "paper":
        return
    sizes = _sizes(document)
    parts = {name: (part, sizes | of_look) for name, part, of_look in _parts(document)}
    _check_same(found, parts, "list of tensors", fail)
    for name, (part, own) in parts.items():
        wanted = part.dtype, tuple(own[size] for size in part.sizes)
        if found[name] != wanted:
            fail(f"tensor {name!r} is {_short(found[name])}, but the description calls for {_short(wanted)}")


def _check_values(name: str, value: NDArray[Any], part: Part, sizes: dict[str, int], fail: Fail) -> None:
    most = sizes[part.most] - 1 if isinstance(part.most, str) else part.most
    # A minimum is not a number if any value is none, and takes no memory.
    if value.size and not (part.least <= value.min() and value.max() <= most):
        fail(f"tensor {name!r} has values that are not from {part.least:g} to {most:g}")
    if part.sums_to_one and not np.allclose(value.sum(axis=-1, dtype=np.float64), 1, atol=1e-3):
        fail(f"tensor {name!r} has proportions that do not sum to one")


def _check_tree(tree: Tree, cluster_of_leaf: NDArray[np.int64], n_clusters: int, fail: Fail) -> None:
    made = tree.n_leaves + np.arange(len(tree.merges))
    if (tree.merges >= made[:, None]).any() or len(np.unique(tree.merges)) != tree.merges.size:
        fail("tensor 'tree.merges' joins nodes that are not there, or twice")
    if (np.diff(tree.link) > 0).any():
        fail("tensor 'tree.link' rises")
    pairs = np.unique(np.stack([tree.cut(n_clusters), cluster_of_leaf]), axis=1)
    if pairs.shape[1] != n_clusters or len(np.unique(cluster_of_leaf)) != n_clusters:
        fail(f"tensor 'cluster_of_leaf' is no cut of the tree into {n_clusters} clusters")


def _name_of(dtype: torch.dtype) -> str:
    return next((name for name, known in DTYPES.items() if known == dtype), str(dtype))


def _is(value: Any, *types: type) -> bool:
    """`isinstance`, but a truth value is no integer."""
    return isinstance(value, types) and (not isinstance(value, bool) or bool in types)


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
