"""Computes the result for a run and a spec: `measure(run, spec)`; most results are then stored in
the run's folder. Also returns what every probe needs of a run: its network, its test images and its
metadata.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from robustviz import data, memory, registry
from robustviz.data import Dataset, Source, singles
from robustviz.imports import load
from robustviz.nets import Classifier
from robustviz.nets.attackable import keep
from robustviz.process import default_threads, threads
from robustviz.runs.catalogue import radius as radius
from robustviz.runs.folder import Run
from robustviz.runs.loose import Loose
from robustviz.training.evaluate import fingerprint
from robustviz.training.evaluation import Evaluation, by_class
from robustviz.types import UserError
from robustviz.views.result import ProbeSpec, Result

R = TypeVar("R", bound=Result)
S = TypeVar("S", bound=ProbeSpec[Any])


@dataclass(eq=False)
class Probe(Generic[S, R]):
    """A function that computes the result for a spec, made with the decorator `@probe`. Call it
    with a run and a spec, or with a run alone for the default settings. Most results are stored in
    the run's folder; if the same spec was measured before on the same weights, the stored result is
    returned (see `__call__`).

    `spec`: the class of the specs; `answer`: the decorated function; `name`: a function that
    returns the name under which a result is stored.
    """

    spec: type[S]
    answer: Callable[[Run, S], R]
    name: Callable[[Run, S], str]

    def __call__(self, run: Run, spec: S | None = None) -> R:
        """The result: the stored one if there is one, else computed now and then stored in the
        run's folder (for a shipped run in `Run.notes`). `spec` None: the default settings. Raises
        UserError if the run cannot give the result.

        Not stored are results whose spec is not `cacheable`, those for a picture that the user
        added, those of a run in memory (`Loose`), and those of a run whose images are in another
        place (`Elsewhere`).
        """
        spec = self.spec() if spec is None else spec
        keeps = spec.cacheable and not singles.is_own(getattr(spec, "index", 0))
        result = self.kept(run, spec) if keeps else None
        if result is None:
            with threads(default_threads()):
                result = self.answer(run, spec)
            if keeps:
                run.keep(self.name(run, spec), result)
        return result

    def kept(self, run: Run, spec: S) -> R | None:
        """The stored result; None if there is none for the run's present weights, or if its file is
        damaged. Computes nothing.
        """
        return run.cached(self.spec.result, self.name(run, spec))  # type: ignore[return-value]


_probes: dict[type[ProbeSpec[Any]], Probe[Any, Any]] = {}


def _plain_name(run: Run, spec: ProbeSpec[Any]) -> str:
    return registry.key(spec)


def probe(
    spec: type[S], name: Callable[[Run, S], str] = _plain_name
) -> Callable[[Callable[[Run, S], R]], Probe[S, R]]:
    """A decorator that turns a function of a run and a spec into the `Probe` of the spec class
    `spec`, and registers it. `name` returns the name under which a result is stored in the run's
    folder. The name must depend on everything that the result depends on, apart from the run's
    weights.
    """

    def enter(answer: Callable[[Run, S], R]) -> Probe[S, R]:
        _probes[spec] = made = Probe(spec, answer, name)
        functools.update_wrapper(made, answer)  # so that `help` shows the function's docstring
        return made

    return enter


def probe_of(spec: ProbeSpec[R]) -> Probe[ProbeSpec[R], R]:
    """The probe registered for the class of a spec. The module `probe.py` beside the spec's module
    is imported first, if necessary; it must define the probe or import it. Raises UserError if
    there is no probe.
    """
    if type(spec) not in _probes:
        package, _, _ = type(spec).__module__.rpartition(".")
        if package:  # without a package the spec is in a one-file plug-in, already imported
            load(f"{package}.probe")
    if type(spec) not in _probes:
        raise UserError(
            f"No function computes the probe {spec.key}: its plug-in needs one with"
            f" @probe({type(spec).__name__})."
        )
    return _probes[type(spec)]


def measure(run: Run, spec: ProbeSpec[R]) -> R:
    """The result of a spec for a run, the stored one if there is one (see `Probe.__call__`). Raises
    UserError if the spec has no probe or the run cannot give the result.
    """
    return probe_of(spec)(run, spec)


@memory.remembered(memory.WORKING)
def _net(path: str, stamp: int) -> Classifier:
    net = Run(Path(path)).net().eval().requires_grad_(False)
    keep(net)
    return net


def net_of(run: Run) -> Classifier:
    """The network of the run's best epoch, on the CPU, in eval mode; its parameters require no
    gradients. It is cached in memory until its file changes. All sessions share this object: never
    change its mode or turn on gradients, and make a `copy.deepcopy` before adding hooks or changing
    it. For a run in memory (`Loose`), that run's own network.

    Raises UserError if the weights are missing, damaged or of another architecture.
    """
    if isinstance(run, Loose):
        return run.net()
    path = run.path / "net.safetensors"
    return _net(str(run.path), path.stat().st_mtime_ns if path.exists() else 0)


@memory.remembered(memory.WORKING)
def _test_split(source: Source) -> Dataset:
    split = data.load(source, "test")
    return split.take(len(split))


def images_of(run: Run) -> Dataset:
    """The run's whole test split, in the stratified order (seed 0) of `Dataset.take`. Image indices
    and the number of images in `--n` refer to this order. For a run in memory (`Loose`), the images
    as given. Raises UserError if the images cannot be read.
    """
    return run.images if isinstance(run, Loose) else _test_split(run.config.data)


def class_counts(run: Run, found: Evaluation) -> tuple[tuple[int, ...], ...]:
    """For each class, three numbers of images in the evaluation `found` of `run`: (all, right when
    clean, right under its attack). If the evaluation lacks these counts, as those of older versions
    do, they are computed from the labels of the test split. Returns () if that is not possible: the
    evaluation has no per-image results, or the test images have changed since. Raises UserError if
    the test images cannot be read.
    """
    if found.by_class or not found.robust_right:
        return found.by_class
    split = images_of(run).take(torch.arange(min(found.n, len(images_of(run)))))
    if fingerprint(split) != found.images:
        return ()
    return by_class(split.y.numpy(), *found.right(), len(split.classes))


def meta_of(run: Run, split: Dataset, **more: object) -> dict[str, object]:
    """The metadata of a result, a dict that says where the result comes from: `run` (the run's id),
    `method`, `data`, `classes` (the names), `train_eps`, and everything in `more`. `train_eps` is
    the run's own ε, or the data's default ε if the run was trained in l2.
    """
    return {
        "run": run.id,
        "method": run.method_key,
        "data": run.data_name,
        "classes": list(split.classes),
        "train_eps": radius(run),
        **more,
    }


def image_of(run: Run, index: int) -> tuple[Dataset, torch.Tensor, torch.Tensor]:
    """A split, the run's test image with this index, (1, C, H, W) in [0, 1], and its class, (1,).
    The split is the run's test split. If `index` is the number of a picture that the user added
    (`data.singles`), the image is that picture, and the split has only this picture. Raises
    UserError if there is no such image, or if the run's data lacks the picture's class.
    """
    split = images_of(run)
    if singles.is_own(index):
        split = _alone(run, split, index)
        return split, split.x, split.y
    if not 0 <= index < len(split):
        raise UserError(
            f"There is no image {index}: the test split has {len(split)}, counted from 0.", code=2
        )
    one = split.take(torch.tensor([index]))
    return split, one.x, one.y


def row_of(index: int) -> int:
    """The position of image `index` in the split that `image_of` returns: 0 for a picture that the
    user added, because that split has only this picture; else `index`.
    """
    return 0 if singles.is_own(index) else index


def _alone(run: Run, split: Dataset, index: int) -> Dataset:
    one = singles.get(index)
    if one is None:
        raise UserError(f"Your picture {index} is no longer here: choose another image.", code=2)
    if one.label not in split.classes:
        raise UserError(
            f"Your picture is labelled {one.label}, but {run.id} has no such class: choose a"
            " network trained on other data, or another image."
        )
    pixels = torch.from_numpy(one.pixels(split.images.shape[1], split.images.shape[2]))
    y = torch.tensor([split.classes.index(one.label)])
    return replace(split, images=pixels[None], y=y, masks=None, names=(one.name,))
