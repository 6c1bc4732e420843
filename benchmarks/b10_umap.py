"""B10: UMAP of 2,000 and of 10,000 features, a new map and an update, against umap-learn and
PaCMAP.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.harness import OURS, Gate, Outcome, Racer, Time, race
from robustviz import data, embedder, figures, probes
from robustviz.attacks import PGD
from robustviz.data import Dataset
from robustviz.nets import Classifier
from robustviz.probes import FeatureMapSpec, FeaturesSpec
from robustviz.runs import folder as runs
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import attacked
from robustviz.training.loop import train
from robustviz.types import UserError
from robustviz.views.features import embedding
from robustviz.views.features.probe import features_of

RUN, EPOCHS = "digits-pgd-at-small-resnet-s0-0c56e5c2", (18, 20)
IMAGES = 1000
# Images of shapes, and two epochs of a network that is trained here, because no shipped network
# has that many images and weights of two epochs.
MANY, LATER = (5000, (8, 10))
JUDGED = 2000  # number of points on which the quality of a map is measured
UPDATED = "robustviz, update"
PLAIN, BEST = "umap-learn (warm)", "umap-learn (warm, approximate neighbours)"
PACMAP, PACMAP_1 = "PaCMAP (warm)", "PaCMAP (warm, one thread)"
COLD = """
import sys, numpy as np, umap
umap.UMAP(metric="cosine", random_state=0, n_jobs=1).fit_transform(np.load(sys.argv[1]))
"""


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """A new map, its update after two more epochs of training, and a new map in a fresh process.

    A fresh process has to compile first.
    """
    if device != "cpu":
        return
    warnings.filterwarnings("ignore", module="umap|pacmap")
    before, now = (_features(epoch) for epoch in EPOCHS)
    compiled = _warm()
    times, made, last = _race(before, now, (PLAIN, BEST, PACMAP, PACMAP_1), rounds or 3)
    fitted, updated, *peers = times
    setting = f"{2 * IMAGES} × {now.shape[1]}, digits clean and attacked, seed 0"
    painted, redrawn = _least(_painted()), _least(lambda: embedding.umap(now, init=last))
    yield Outcome(
        "B10",
        "UMAP, a new map",
        setting,
        (fitted, *peers),
        {},
        (
            *_as_true(now, made, OURS),
            _within(
                "first paint of a run whose features are known (map, noise put in, trustworthiness,"
                " figure)",
                painted,
                2.0,
            ),
        ),
        f"Our process compiled in {compiled:.0f} s, in the background. {_qualities(now, made)}",
    )
    yield Outcome(
        "B10",
        "UMAP, the map two epochs later",
        f"{setting}, 50 epochs from the map of epoch {EPOCHS[0]}",
        (updated, *peers),
        {PLAIN: 10},
        (*_as_true(now, made, UPDATED), _within("update", redrawn, 0.3)),
        _stays(last, made),
    )
    x = now.float().numpy()
    cold = _cold(x)
    yield Outcome(
        "B10",
        "UMAP, the first map of a session",
        setting,
        (Time(OURS, (fitted.median,), fitted.first), cold),
        {cold.name: 10},
        _as_true(now, made, OURS),
        "Ours once its process has compiled, which it does before anyone asks; the peer's in a"
        " fresh process, imports included.",
    )
    yield from _many(rounds or 2)


def _many(rounds: int) -> Iterator[Outcome]:
    """The same races with 10,000 points."""
    split = data.load("shapes", "train", MANY)
    nets: list[Classifier] = []
    for record in train(
        TrainConfig(data="shapes", method="fgsm_rs", epochs=LATER[-1], device="cpu")
    ):  # type: ignore[arg-type]
        if record.epoch in LATER:
            nets.append(copy.deepcopy(record.training.net).eval())
    before, now = (_both(net, split, 8 / 255, 5) for net in nets)
    times, made, last = _race(before, now, (PLAIN, PACMAP, PACMAP_1), rounds)
    fitted, updated, *peers = times
    setting = f"{2 * MANY} × {now.shape[1]}, shapes clean and attacked, seed 0"
    yield Outcome(
        "B10",
        "UMAP, a new map",
        setting,
        (fitted, *peers),
        {},
        (*_as_true(now, made, OURS), _within("new map", fitted.least, 4.0)),
        f"umap-learn's neighbours are approximate here by its own default. {_qualities(now, made)}",
    )
    yield Outcome(
        "B10",
        "UMAP, the map two epochs later",
        f"{setting}, 50 epochs from the map of epoch {LATER[0]}",
        (updated, *peers),
        {PLAIN: 10},
        (*_as_true(now, made, UPDATED), _within("update", updated.least, 2.0)),
        _stays(last, made),
    )


def _race(
    before: Tensor, now: Tensor, others: tuple[str, ...], rounds: int
) -> tuple[tuple[Time, ...], dict[str, Tensor], Tensor]:
    """The times of our new map, of our update, and of a new map of each of the `others`; the maps
    by name; and the map before the update.
    """
    import numba
    from pacmap import PaCMAP
    from umap import UMAP

    x, settings = now.float().numpy(), {"metric": "cosine", "random_state": 0, "n_jobs": 1}
    last, made = embedding.umap(before), {}

    def pacmap(threads: int) -> np.ndarray:
        numba.set_num_threads(threads)
        try:
            return np.asarray(PaCMAP(random_state=0).fit_transform(x))
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)

    every: dict[str, Callable[[], object]] = {
        OURS: lambda: embedding.umap(now),
        UPDATED: lambda: embedding.umap(now, init=last),
        PLAIN: lambda: UMAP(**settings).fit_transform(x),
        BEST: lambda: UMAP(**settings, force_approximation_algorithm=True).fit_transform(x),
        PACMAP: lambda: pacmap(numba.config.NUMBA_NUM_THREADS),
        PACMAP_1: lambda: pacmap(1),
    }

    def racer(name: str) -> Racer:
        return Racer(
            name,
            lambda: made.update(
                {name: torch.from_numpy(np.asarray(every[name](), dtype=np.float64))}
            ),
        )

    times = race([racer(name) for name in (OURS, UPDATED, *others)], rounds)
    return times, made, last


def _features(epoch: int) -> Tensor:
    """Features (2000, D) of 1,000 training images, clean and under PGD-10, by the network of that
    epoch.
    """
    run = runs.open_run(RUN)
    return _both(
        run.net(epoch=epoch), data.load(run.config.data, "train").take(IMAGES), run.eps, 10
    )


def _both(net: Classifier, few: Dataset, eps: float, steps: int) -> Tensor:
    """Features (2N, D) of N images, clean and under PGD."""
    x_adv = attacked(net, few.x, few.y, PGD(eps=eps, steps=steps), 0)
    return torch.cat([features_of(net, images)[0] for images in (few.x, x_adv)]).double()


def _warm() -> float:
    """Seconds until the app's embedding process has compiled."""
    began = time.perf_counter()
    embedder.APP.start()
    while not embedder.APP.ready:
        if embedder.APP.pid is None or time.perf_counter() - began > 300:
            raise UserError(
                "The embedding process does not start; UMAP cannot be raced without it."
            )
        time.sleep(0.1)
    return time.perf_counter() - began


def _painted() -> Callable[[], object]:
    """A function that makes the figure from known features of 1,000 test images of shapes, clean
    and attacked.
    """
    run = runs.open_run("shapes-pgd-at-small-resnet-s0-89b8cc89")
    spec = FeatureMapSpec(projection="umap", n=IMAGES, steps=10)
    probes.features(run, spec.alike(FeaturesSpec))  # fills the cache
    return lambda: figures.feature_map(probes.feature_map.answer(run, spec)).to_json()


def _least(work: Callable[[], object]) -> float:
    """The minimum time of ten calls in seconds, which is the time on an idle processor."""

    def spent() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return min(spent() for _ in range(10))


def _cold(x: np.ndarray) -> Time:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x)
        began = time.perf_counter()
        subprocess.run([sys.executable, "-W", "ignore", "-c", COLD, str(path)], check=True)
        spent = time.perf_counter() - began
    return Time("umap-learn (fresh process)", (spent,), spent)


def _judges(z: Tensor) -> Tensor:
    """The positions of the points on which maps are compared: all, or a random 2,000."""
    return torch.randperm(len(z), generator=torch.Generator().manual_seed(0))[:JUDGED]


def _trust(z: Tensor, at: Tensor) -> float:
    some = _judges(z)
    return embedding.trustworthiness(z[some], at[some])


def _recall(z: Tensor, at: Tensor) -> float:
    """For the compared points: the share of their 15 nearest neighbours by cosine distance that are
    also among their 15 nearest in the map.
    """
    some = _judges(z)
    near, far = embedding.nearest(z, 16)[0][some, 1:], torch.cdist(at[some], at)
    flat = (
        far.index_put_((torch.arange(len(some)), some), torch.tensor(torch.inf).double())
        .topk(15, largest=False)
        .indices
    )
    return float((near[:, :, None] == flat[:, None]).any(dim=2).double().mean())


def _as_true(z: Tensor, made: dict[str, Tensor], name: str) -> tuple[Gate, Gate]:
    ours, theirs = (_trust(z, made[one]) for one in (name, PLAIN))
    mine, yours = (_recall(z, made[one]) for one in (name, PLAIN))
    return (
        Gate(f"trustworthiness(15) {ours:.4f}, umap-learn {theirs:.4f}", ours > theirs - 0.01),
        Gate(f"neighbours recalled {mine:.3f}, umap-learn {yours:.3f}", mine > yours - 0.01),
    )


def _within(what: str, seconds: float, limit: float) -> Gate:
    return Gate(f"{what} {seconds:.2f} s, at most {limit:g} s", seconds <= limit)


def _qualities(z: Tensor, made: dict[str, Tensor]) -> str:
    found = (f"{name} {_trust(z, at):.4f} and {_recall(z, at):.3f}" for name, at in made.items())
    return f"Trustworthiness(15) and recall: {'; '.join(found)}."


def _stays(last: Tensor, made: dict[str, Tensor]) -> str:
    wide = float((last.amax(dim=0) - last.amin(dim=0)).max())
    moved = {
        name: float((made[name] - last).norm(dim=1).median()) / wide for name in (UPDATED, OURS)
    }
    return (
        f"Half of the points move by less than {moved[UPDATED]:.1%} of the map's width; in a new"
        f" map by {moved[OURS]:.0%}."
    )
