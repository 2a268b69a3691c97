"""The paper's evidence on images in a few minutes of one GPU, the most important first; every step is written at once.

    python benchmarks/paper/gpu.py --data mnist_usps.npz --minutes 6 --out DIR [--device cuda] [--small]
    python benchmarks/paper/gpu.py --report DIR [DIR ...]

In this order, as far as the minutes go, which a first measurement tells: seconds of an epoch and of a step beside the
transcription, for images and for vectors; the transcription by the published schedule, in a process of its own beside
all that follows; MNIST-USPS by the published schedule, with scores after every epoch (Figure 5) and digits through
either branch (Figure 4); the same seed twice; more seeds; three seeds of a short schedule on 8,000 images, ours and the
transcription's; Reverse MNIST; Table 2, each part left out; the effect of α, β and τ. `--only` takes some of these.
Writes `gpu.json`, `transcription.json`, `figure4_<set>.npz` and `labels.npz`. `--small` is a rehearsal on few images.
`--report` turns what one or several runs wrote into the tables and figures of the docs.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import figures
import images
import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from reference import VectorNet, train
from table2 import EFFECT
from torch.utils.flop_counter import FlopCounterMode

from scfcmi._device import repeatable, resolve_device
from scfcmi.metrics import clustering_scores
from scfcmi.published import EpochReport, NetworkOptions, PublishedFit, fit_published
from scfcmi.published import _training as training
from scfcmi.published._fit import _network
from scfcmi.published._kmeans import kmeans
from scfcmi.published._network import reset
from scfcmi.published._replay import recording
from scfcmi.published._rows import Rows, measure
from scfcmi.published._step import Step
from scfcmi.published._training import new_state, shuffled, terms_of
from scfcmi.source import Groups, as_source

K = images.N_CLASSES
BATCH, EPOCHS, WARMUP = 512, 300, 20
# Epochs below which a row of a table says nothing.
LEAST = 60
# Images, epochs and seeds of the comparison with the transcription over many seeds.
FEW, SHORT, MANY_SEEDS = 8000, 60, 3
# Images of every class and group in Figure 4.
SHOWN = 2
_truth: tuple[NDArray, NDArray] | None = None


def _know(group: NDArray, label: NDArray) -> None:
    global _truth
    _truth = group, label


def _score(labels: NDArray) -> dict[str, float]:
    assert _truth is not None
    scores = clustering_scores(labels, *_truth)
    return {name: scores[name] for name in images.SCORES}


def scored(labels: NDArray, groups: Groups, truth: NDArray) -> dict[str, float]:
    scores = clustering_scores(labels, groups.codes, truth)
    return {name: scores[name] for name in images.SCORES}


class Clock:
    """A callback that notes when epochs end, and has their labels scored elsewhere."""

    def __init__(self, pool: ProcessPoolExecutor | None = None) -> None:
        self.times: list[float] = []
        self._pool, self._scores = pool, list[Future[dict[str, float]]]()

    def __call__(self, report: EpochReport) -> None:
        self.times.append(time.perf_counter())
        if self._pool is not None:
            self._scores.append(self._pool.submit(_score, report.labels.astype(np.int8)))

    def seconds(self, skipped: int) -> float:
        """Median seconds of an epoch, the first ones left out."""
        return float(statistics.median(np.diff(self.times)[skipped:]))

    def scores(self) -> dict[str, list[float]]:
        rows = [future.result() for future in self._scores]
        return {name: [row[name] for row in rows] for name in images.SCORES}


class Run:
    """What is known to all steps: data, time that is left, and the file that grows."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.device = given, resolve_device(given.device)
        self.until = time.monotonic() + 60 * given.minutes
        self.epochs, self.warmup, self.batch = (4, 2, 128) if given.small else (EPOCHS, WARMUP, BATCH)
        self.rows = 400 if given.small else None
        self.found: dict[str, Any] = {
            "machine": images.machine(self.device),
            "runs": [],
            "speed": [],
            "warnings": [],
            "errors": [],
        }
        self.labels: dict[str, NDArray] = {}
        # Seconds, a guess until it is measured.
        self.per_epoch = 0.5
        self.x, self.groups, self.truth = images.load("mnist-usps", given.data, self.rows)

    def left(self) -> float:
        return self.until - time.monotonic()

    def affordable(self, share: float, cost: float = 1.0) -> int:
        """Epochs that fit into a share of the time left, all at most; none where they would say nothing."""
        if self.given.small:
            return self.epochs
        n = min(self.epochs, int(share * self.left() / (self.per_epoch * cost)))
        return n if n >= LEAST else 0

    def attempt(self, step: Callable[[Run], None]) -> None:
        """Take a step; what goes wrong in it is noted, and the next one is taken."""
        try:
            step(self)
        except Exception as error:  # noqa: BLE001
            traceback.print_exc()
            self.found["errors"].append(f"{step.__name__}: {error}")
        self.write()

    def write(self) -> None:
        self.found["seconds"] = 60 * self.given.minutes - self.left()
        (self.given.out / "gpu.json").write_text(json.dumps(self.found, indent=1))
        if self.labels:
            np.savez_compressed(self.given.out / "labels.npz", **self.labels)

    def note(self, kind: str, **row: Any) -> None:
        self.found[kind].append(row)
        shown = {name: value for name, value in row.items() if name != "history"}
        print(f"[{60 * self.given.minutes - self.left():6.1f} s] {kind}: {shown}", flush=True)
        self.write()

    def options(self, seed: int, epochs: int, **changes: Any) -> NetworkOptions:
        warmup = min(self.warmup, epochs // 2)
        return images.options(seed, 2, max_epochs=epochs, warmup_epochs=warmup, batch_size=self.batch, **changes)

    def fit(
        self,
        method: str,
        seed: int,
        epochs: int,
        data: Any = None,
        pool: ProcessPoolExecutor | None = None,
        **changes: Any,
    ) -> PublishedFit:
        """Fit, label, score and note."""
        name, x, groups, truth = data or ("mnist-usps", self.x, self.groups, self.truth)
        clock = Clock(pool)
        options = self.options(seed, epochs, callback=clock, **changes)
        start = time.perf_counter()
        found = fit_published(
            as_source(x), groups, K, options, random_state=seed, device=self.device, progress_bar=False
        )
        seconds = time.perf_counter() - start
        labels, _, h = found.assign(x)
        if not (options.alpha or options.beta):
            labels = self.nearest(torch.from_numpy(h), seed)
        self.labels[f"{name}_{method}_{seed}".replace(" ", "_")] = labels.astype(np.int8)
        history = {name: values.tolist() for name, values in found.history.items()}
        if pool is not None:
            history |= clock.scores()
        row = {"set": name, "method": method, "seed": seed, "epochs": epochs, "fit_seconds": seconds}
        self.note("runs", **row, **scored(labels, groups, truth), history=history)
        return found

    def nearest(self, points: torch.Tensor, seed: int) -> NDArray:
        """Clusters by k-means on the device."""
        points = points.to(self.device)
        return torch.cdist(points, kmeans(points, K, np.random.default_rng(seed))).argmin(1).cpu().numpy()


# steps ---------------------------------------------------------------------------------------------------------------


def speed_of_images(run: Run) -> None:
    """Seconds of an epoch of images beside the transcription, and milliseconds of a step beside its limit."""
    n = 4 if run.given.small else 10
    seconds, losses = {}, {}
    for how in ("recorded", "one by one"):
        clock = Clock()
        options = run.options(0, n, callback=clock)
        with one_by_one() if how == "one by one" else nullcontext():
            found = fit_published(
                as_source(run.x), run.groups, K, options, random_state=0, device=run.device, progress_bar=False
            )
        # The first epochs record steps: of reconstruction alone, and of everything.
        seconds[how], losses[how] = clock.seconds(n // 2), found.history["reconstruction"]
    run.per_epoch = seconds["recorded"]
    net = images.image_net(2, 0)
    theirs = transcription_seconds(run, net, run.x, run.groups, run.batch)
    step, recorded = step_ms(run, run.x, run.groups, run.options(0, 1))
    run.note(
        "speed",
        job=f"images, {len(run.x):,}",
        steps=len(run.x) // run.batch,
        scfcmi=seconds["recorded"],
        one_by_one=seconds["one by one"],
        transcription=theirs,
        step_ms=step,
        limit_ms=limit_ms(run, net, run.x.shape[1], run.batch),
        recorded=recorded,
        # Rounding alone, which Adam amplifies from step to step. The loss itself passes 0 when the warm-up ends.
        difference=np.abs(losses["recorded"] / losses["one by one"] - 1).tolist(),
    )


@contextmanager
def one_by_one() -> Iterator[None]:
    """Have no steps recorded for a while."""
    kept, training.recording = training.recording, lambda *_, **__: None
    try:
        yield
    finally:
        training.recording = kept


def speed_of_vectors(run: Run) -> None:
    """The same for the network for vectors, on random cells of two and of eight groups."""
    rng = np.random.default_rng(0)
    n, n_genes = (1100, 50) if run.given.small else (16_384, 2000)
    x = np.tanh(rng.normal(size=(n, n_genes))).astype(np.float32)
    for n_groups in (2, 8):
        groups = Groups(rng.integers(0, n_groups, n), tuple(map(str, range(n_groups))))
        clock = Clock()
        epochs = 4 if run.given.small else 8
        hidden = {"hidden": (64, 64, 32)} if run.given.small else {}
        options = NetworkOptions(max_epochs=epochs, warmup_epochs=1, callback=clock, **hidden)
        fit_published(as_source(x), groups, K, options, random_state=0, device=run.device, progress_bar=False)
        net = VectorNet(n_genes, n_groups, K, options.hidden)
        theirs = transcription_seconds(run, net, x, groups, BATCH)
        step, recorded = step_ms(run, x, groups, options)
        run.note(
            "speed",
            job=f"vectors, {n:,} × {n_genes:,}, {n_groups} groups",
            steps=n // BATCH,
            scfcmi=clock.seconds(epochs // 2),
            transcription=theirs,
            step_ms=step,
            limit_ms=limit_ms(run, net, n_genes, BATCH),
            recorded=recorded,
        )


def transcription_seconds(run: Run, net: Any, x: NDArray, groups: Groups, batch: int) -> float:
    times: list[float] = []
    tensors = torch.from_numpy(x).to(run.device), torch.from_numpy(groups.codes).to(run.device)

    def tell(epoch: int, labels: NDArray) -> None:
        times.append(time.perf_counter())

    train(net.to(run.device), *tensors, K, seed=0, epochs=4, warmup=0, batch=batch, callback=tell)
    return float(statistics.median(np.diff(times)))


def step_ms(run: Run, x: NDArray, groups: Groups, options: NetworkOptions) -> tuple[float, bool]:
    """Milliseconds of one step, mean over an epoch, and whether steps were recorded."""
    device = torch.device(run.device)
    with repeatable(device):
        source = as_source(x)
        network = _network(options, x.shape[1], groups.n, K)
        reset(network, torch.Generator().manual_seed(0))
        network = network.to(device)
        rows = Rows(source, measure(source)[0], device, torch.float32)
        state = new_state(network, options, device)
        state.centres = F.normalize(torch.randn(K, K, device=device), dim=1)
        recorded = recording(
            Step(state, terms_of(options, groups, rows), groups, options, rows),
            state,
            rows,
            groups,
            options,
            wanted=True,
        )
        assert recorded is not None
        order, counts = shuffled(groups, options.batch_size, np.random.default_rng(0))
        taken = []
        for _ in range(3):
            synchronize(device)
            start = time.perf_counter()
            recorded.epoch(order, counts, warm=False)
            synchronize(device)
            taken.append(1000 * (time.perf_counter() - start) / len(order))
    return min(taken[1:]), recorded._graph is not None


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def limit_ms(run: Run, net: Any, n_input: int, batch: int) -> float:
    """Least milliseconds of a step: its products at the rate of a large one, or its bytes at that of a large copy.

    Bytes are those of Adam (weights, gradients and two moments, read and written) and of every layer's output, written
    and read forwards and backwards.
    """
    device = torch.device(run.device)
    big = 1024 if device.type == "cpu" else 8192
    a, b = torch.randn(big, big, device=device), torch.randn(big * big * 4, device=device)
    c = torch.empty_like(b)
    rates = []
    for work, amount in ((lambda: a @ a, 2 * big**3), (lambda: c.copy_(b), 2 * b.nbytes)):
        best = float("inf")
        for _ in range(4):
            synchronize(device)
            start = time.perf_counter()
            work()
            synchronize(device)
            best = min(best, time.perf_counter() - start)
        rates.append(amount / best)
    net = net.to(device)
    codes = torch.arange(batch, device=device) % len(net.branches)
    x, sizes = torch.randn(batch, n_input, device=device), list[int]()
    hooks = [
        m.register_forward_hook(lambda _, __, out: sizes.append(out.numel()))
        for m in net.modules()
        if not list(m.children())
    ]
    with FlopCounterMode(display=False) as counter:
        shared = net.shared(net.encoder(x))
        out = [branch(shared[codes == i]) for i, branch in enumerate(net.branches)]
        sum(o.sum() for o in out).backward()
    for hook in hooks:
        hook.remove()
    weights = sum(p.numel() for p in net.parameters())
    return 1000 * max(counter.get_total_flops() / rates[0], 4 * (10 * weights + 4 * sum(sizes)) / rates[1])


def figure4(run: Run, name: str, found: PublishedFit, x: NDArray, groups: Groups, truth: NDArray) -> None:
    """The arrays of Figure 4."""
    shown = figures.examples(found, x, groups, truth, SHOWN).astype(np.float16)
    np.savez_compressed(run.given.out / f"figure4_{name}.npz", shown=shown)


def transcribe(given: argparse.Namespace, seconds: float, seed: int) -> None:
    """The transcription by the same schedule, scored as it goes; in a process of its own."""
    until = time.monotonic() + seconds
    torch.set_num_threads(2)
    run = Run(given)
    net = images.image_net(2, seed).to(run.device)
    x, codes = torch.from_numpy(run.x).to(run.device), torch.from_numpy(run.groups.codes).to(run.device)
    rows: list[dict[str, float]] = []

    class Over(Exception):
        pass

    def tell(epoch: int, labels: NDArray) -> None:
        over = time.monotonic() > until
        if epoch % 10 == 0 or over or epoch == run.epochs:
            rows.append({"epoch": epoch, **scored(labels, run.groups, run.truth)})
            document = {"set": "mnist-usps", "method": "transcription", "seed": seed, "epochs": epoch, "scores": rows}
            (given.out / "transcription.json").write_text(json.dumps(document))
        if over:
            raise Over

    try:
        train(
            net,
            x,
            codes,
            K,
            seed=seed,
            epochs=run.epochs,
            warmup=run.warmup,
            batch=run.batch,
            callback=tell,
        )
    except Over:
        print(f"transcription: stopped after epoch {rows[-1]['epoch']}", flush=True)


def pool_for(groups: Groups, truth: NDArray, small: bool) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        1 if small else 6, multiprocessing.get_context("spawn"), initializer=_know, initargs=(groups.codes, truth)
    )


def fcmi(run: Run) -> None:
    """The published schedule with scores after every epoch, and Figure 4."""
    with pool_for(run.groups, run.truth, run.given.small) as pool:
        found = run.fit("FCMI", 0, run.affordable(0.9) or LEAST, pool=pool)
    figure4(run, "mnist-usps", found, run.x, run.groups, run.truth)


def twice(run: Run) -> None:
    for again in (1, 2):
        run.fit(f"twice {again}", 1, min(run.epochs, 30))
    a, b = (run.labels[f"mnist-usps_twice_{again}_1"] for again in (1, 2))
    run.found["same_labels_twice"] = bool(np.array_equal(a, b))
    print(f"the same labels twice: {run.found['same_labels_twice']}", flush=True)


def spread(run: Run) -> None:
    """Seeds of a short schedule on some of the images, ours beside the transcription's from the same weights."""
    small = run.given.small
    x, groups, truth = images.load("mnist-usps", run.given.data, run.rows if small else FEW)
    epochs = run.epochs if small else SHORT
    name = f"mnist-usps, {len(x):,} images"
    tensors = torch.from_numpy(x).to(run.device), torch.from_numpy(groups.codes).to(run.device)
    for seed in range(1 if small else MANY_SEEDS):
        run.fit("FCMI", seed, epochs, (name, x, groups, truth))
        net, warmup = images.image_net(2, seed).to(run.device), min(run.warmup, epochs // 2)
        labels = train(net, *tensors, K, seed=seed, epochs=epochs, warmup=warmup, batch=run.batch)
        row = {"set": name, "method": "transcription", "seed": seed, "epochs": epochs}
        run.note("runs", **row, **scored(labels, groups, truth))


def effect(run: Run) -> None:
    """α, β and τ changed one at a time; what is published, or leaves a part out, is in the other tables."""
    published = NetworkOptions()
    changes = [(name, v) for name, values in EFFECT.items() for v in values if v not in (0, getattr(published, name))]
    n = run.affordable(0.9 / len(changes))
    for name, value in changes:
        if n and (run.given.small or run.left() > n * run.per_epoch):
            run.fit(f"{name}={value:g}", 0, n, **{name: value})


def more_seeds(run: Run) -> None:
    for seed in (1, 2):
        if n := run.affordable(0.5):
            run.fit("FCMI", seed, n)
    labels = run.nearest(torch.from_numpy(run.x), 0)
    run.note("runs", set="mnist-usps", method="k-means on pixels", seed=0, **scored(labels, run.groups, run.truth))


def reverse(run: Run) -> None:
    name, (x, groups, truth) = "reverse-mnist", images.load("reverse-mnist", run.given.data, run.rows)
    if n := run.affordable(0.6, len(x) / len(run.x)):
        figure4(run, name, run.fit("FCMI", 0, n, (name, x, groups, truth)), x, groups, truth)
    labels = run.nearest(torch.from_numpy(x), 0)
    run.note("runs", set=name, method="k-means on pixels", seed=0, **scored(labels, groups, truth))


def table2(run: Run) -> None:
    """Every part left out, over as many epochs for all; over fewer parts, where time is short."""
    variants = {name: changes for name, changes in images.VARIANTS.items() if changes}
    n = run.affordable(0.9 / len(variants)) or run.affordable(0.9 / 3)
    for variant, changes in variants.items():
        if n and (run.given.small or run.left() > n * run.per_epoch):
            run.fit(variant, 0, n, **changes)


# Steps that have the GPU for themselves, since they are timed; and those that share it with the transcription.
ALONE = (speed_of_images, speed_of_vectors)
SHARED = (fcmi, twice, more_seeds, spread, reverse, table2, effect)


def all_steps(run: Run) -> None:
    wanted = run.given.only or [step.__name__ for step in (*ALONE, *SHARED)] + ["transcription"]
    for step in ALONE:
        if step.__name__ in wanted:
            run.attempt(step)
    child = None
    if "transcription" in wanted:
        context = multiprocessing.get_context("spawn")
        child = context.Process(target=transcribe, args=(run.given, max(run.left() - 15, 5), 0), daemon=True)
        child.start()
        run.per_epoch *= 1.3
    for step in SHARED:
        if step.__name__ in wanted:
            run.attempt(step)
    if child is not None:
        child.join(max(run.left(), 40 if run.given.small else 1))
        if child.is_alive():
            child.terminate()
    print(f"done, {run.left():.0f} s left", flush=True)


# report --------------------------------------------------------------------------------------------------------------


def report(folders: Sequence[Path], out: Path) -> None:
    """Tables and figures of the docs from what runs wrote; of what several did, the last counts."""
    mpl.use("Agg")
    documents = [json.loads((folder / "gpu.json").read_text()) for folder in folders]
    runs = {
        (row["set"], row["method"], row["seed"]): row | {"machine": document["machine"]}
        for document in documents
        for row in document["runs"]
    }
    rows = [row for row in runs.values() if not row["method"].startswith("twice")]
    for path in [folder / "transcription.json" for folder in folders]:
        if path.exists():
            other = json.loads(path.read_text())
            rows.append({name: value for name, value in other.items() if name != "scores"} | other["scores"][-1])
    # Beside what was run for fewer epochs stands ours from the same seed as it was then.
    then = {(row["set"], row["epochs"]): row for row in (_at_epoch(rows, other) for other in rows) if row is not None}
    rows = sorted([*rows, *then.values()], key=lambda row: (row["set"], -row.get("epochs", 0), row["method"] != "FCMI"))
    frame = pd.DataFrame([{name: value for name, value in row.items() if name != "history"} for row in rows])
    machines = list(dict.fromkeys(document["machine"] for document in documents))
    lines = ["# The paper's images on a GPU", f"Made by `benchmarks/paper/gpu.py` on: {'; '.join(machines)}."]
    for name, part in frame.groupby("set", sort=False):
        lines += [f"## {name}"]
        if name in images.PAPER:
            published = " ".join(f"{n} {v:.3f}" for n, v in zip(images.SCORES, images.PAPER[str(name)], strict=True))
            lines += [f"Published, 300 epochs: {published}."]
        lines += [_rows(part)]
    twice = [document["same_labels_twice"] for document in documents if "same_labels_twice" in document]
    lines += ["## The same seed twice", f"The same labels: {'yes' if all(twice) else 'no'}."]
    lines += ["## Seconds of an epoch, milliseconds of a step"]
    lines += ["`one by one`: every kernel launched by itself, instead of a recorded step replayed."]
    speed = {row["job"]: row for document in documents for row in document["speed"]}.values()
    lines += [_speed(speed)]
    lines += [
        f"Error of the first epoch, recorded and one by one, {row['job']}: {row['difference'][0]:.1%} apart."
        for row in speed
        if "difference" in row
    ]
    (out / "paper_gpu.md").write_text("\n\n".join(lines) + "\n")
    frame.to_csv(out / "paper_gpu.csv", index=False)
    _draw(folders, rows, out)


def _at_epoch(rows: Sequence[dict[str, Any]], other: dict[str, Any]) -> dict[str, Any] | None:
    """Our run from the same seed as it was when another one ended, if that was earlier."""
    for row in rows:
        is_it = row["method"] == "FCMI" and (row["set"], row["seed"]) == (other["set"], other["seed"])
        if is_it and "acc" in row.get("history", {}) and row["epochs"] > (epoch := other.get("epochs", row["epochs"])):
            at = {name: row["history"][name][epoch - 1] for name in images.SCORES}
            return row | at | {"epochs": epoch, "fit_seconds": float("nan"), "history": {}}
    return None


def _rows(frame: Any) -> str:
    head = ["method", "seed", "epochs", *images.SCORES]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in frame.to_dict("records"):
        epochs = "" if row["epochs"] != row["epochs"] else f"{row['epochs']:.0f}"
        cells = [row["method"], str(row["seed"]), epochs, *(f"{row[name]:.3f}" for name in images.SCORES)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _speed(rows: Iterable[dict[str, Any]]) -> str:
    head = ["job", "steps", "scfcmi, s", "one by one, s", "transcription, s", "times faster"]
    head += ["step, ms", "its limit, ms", "recorded"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in rows:
        values = [row["scfcmi"], row.get("one_by_one"), row["transcription"], row["transcription"] / row["scfcmi"]]
        cells = ["" if v is None else f"{v:.3f}" for v in (*values, row["step_ms"], row["limit_ms"])]
        lines.append(f"| {row['job']} | {row['steps']} | " + " | ".join(cells) + f" | {row['recorded']} |")
    return "\n".join(lines)


def _draw(folders: Sequence[Path], runs: list[dict[str, Any]], out: Path) -> None:
    for row in runs:
        if "acc" in row.get("history", {}):
            stopped = {"epoch": row["epochs"], "reason": f"ran all {row['epochs']} epochs"}
            # What the figure of the paper has.
            shown = {name: values for name, values in row["history"].items() if name != "balance"}
            figures.against_epoch(shown, stopped).savefig(out / f"paper_figure5_{row['set']}.svg")
            pd.DataFrame(row["history"]).to_csv(out / f"paper_figure5_{row['set']}.csv", index_label="epoch")
    for path in [path for folder in folders for path in sorted(folder.glob("figure4_*.npz"))]:
        name = path.stem.removeprefix("figure4_")
        with np.load(path) as stored:
            figure = figures.either_branch(stored["shown"].astype(np.float32), images.SETS[name])
        figure.savefig(out / f"paper_{path.stem}.png", dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=images.DATA)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--out", type=Path, default=Path("paper_gpu"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="a rehearsal: few images and epochs, everything once")
    parser.add_argument("--one-by-one", action="store_true", help="launch every step by itself, record none")
    parser.add_argument("--only", nargs="+", help="steps to take: functions of this file, and `transcription`")
    parser.add_argument(
        "--report", type=Path, nargs="+", help="make tables and figures of what a run wrote here, and end"
    )
    given = parser.parse_args()
    if given.report is not None:
        report(given.report, images.RESULTS if given.out == Path("paper_gpu") else given.out)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1 if given.small else 4)
    run = Run(given)
    plain: Callable[..., None] = warnings.showwarning

    def kept(message: Any, *where: Any, **more: Any) -> None:
        run.found["warnings"].append(str(message))
        plain(message, *where, **more)

    warnings.showwarning = kept
    with one_by_one() if given.one_by_one else nullcontext():
        all_steps(run)


if __name__ == "__main__":
    main()
