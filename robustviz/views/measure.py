"""How a spec becomes a result: `measure(run, spec)`, kept on disk where it takes long; and what
every probe needs of a run, its network and its images.
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
    """A function that answers a spec, made with `@probe`. Called with a run and a spec, or with a
    run alone for the usual settings, it gives the answer, from the run's folder where the same was
    asked of the same weights before.
    """

    spec: type[S]
    answer: Callable[[Run, S], R]
    name: Callable[[Run, S], str]

    def __call__(self, run: Run, spec: S | None = None) -> R:
        """The answer. Raises UserError where this run cannot give it."""
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
        """The answer if the run's folder has it, else None; nothing is computed."""
        return run.cached(self.spec.result, self.name(run, spec))  # type: ignore[return-value]


_probes: dict[type[ProbeSpec[Any]], Probe[Any, Any]] = {}


def _plain_name(run: Run, spec: ProbeSpec[Any]) -> str:
    return registry.key(spec)


def probe(
    spec: type[S], name: Callable[[Run, S], str] = _plain_name
) -> Callable[[Callable[[Run, S], R]], Probe[S, R]]:
    """A decorator: this function answers that spec. `name`: how the run's folder calls the answer,
    all that it depends on besides the run's weights.
    """

    def enter(answer: Callable[[Run, S], R]) -> Probe[S, R]:
        _probes[spec] = made = Probe(spec, answer, name)
        functools.update_wrapper(made, answer)  # `help` shows its text
        return made

    return enter


def probe_of(spec: ProbeSpec[R]) -> Probe[ProbeSpec[R], R]:
    """The probe that answers a spec: it is in, or imported by, `probe.py` beside the spec."""
    if type(spec) not in _probes:
        package, _, _ = type(spec).__module__.rpartition(".")
        if package:  # else a plug-in of one file, which is loaded
            load(f"{package}.probe")
    if type(spec) not in _probes:
        raise UserError(
            f"Nothing answers the probe {spec.key}: its plug-in needs a function with"
            f" @probe({type(spec).__name__})."
        )
    return _probes[type(spec)]


def measure(run: Run, spec: ProbeSpec[R]) -> R:
    """What the run answers to a spec. Raises UserError where it cannot."""
    return probe_of(spec)(run, spec)


@memory.remembered(memory.WORKING)
def _net(path: str, stamp: int) -> Classifier:
    net = Run(Path(path)).net().eval().requires_grad_(False)
    keep(net)
    return net


def net_of(run: Run) -> Classifier:
    """The run's best network, kept in memory while its file does not change. It is shared by all
    sessions, so it stays in eval mode and without gradients of parameters for life; whoever wants
    to hook or change a network takes `copy.deepcopy` of it.
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
    """The run's test split, in the seed-0 stratified order in which `--n` and every image number
    count; of a run in memory the images as they were given.
    """
    return run.images if isinstance(run, Loose) else _test_split(run.config.data)


def class_counts(run: Run, found: Evaluation) -> tuple[tuple[int, ...], ...]:
    """Of each class how many images an evaluation of the run met, and how many of them were right
    untouched and attacked; of one that did not count them, by the labels. Nothing where the images
    are others now. Raises UserError where they cannot be read.
    """
    if found.by_class or not found.robust_right:
        return found.by_class
    split = images_of(run).take(torch.arange(min(found.n, len(images_of(run)))))
    if fingerprint(split) != found.images:
        return ()
    return by_class(split.y.numpy(), *found.right(), len(split.classes))


def meta_of(run: Run, split: Dataset, **more: object) -> dict[str, object]:
    """What every result says about where it comes from, and `more`."""
    return {
        "run": run.id,
        "method": run.method_key,
        "data": run.data_name,
        "classes": list(split.classes),
        "train_eps": radius(run),
        **more,
    }


def image_of(run: Run, index: int) -> tuple[Dataset, torch.Tensor, torch.Tensor]:
    """The run's test split, and of one image of it the pixels (1,C,H,W) and the class (1,). A
    picture of the user's own (`data.singles`) is a split of itself alone.
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
    """Where the image of that number stands in the split that `image_of` gives."""
    return 0 if singles.is_own(index) else index


def _alone(run: Run, split: Dataset, index: int) -> Dataset:
    one = singles.get(index)
    if one is None:
        raise UserError(f"There is no picture {index} any more: choose another image.", code=2)
    if one.label not in split.classes:
        raise UserError(
            f"What is on your picture is called {one.label}, and {run.id} knows no such class:"
            " choose a network of other data, or another image."
        )
    pixels = torch.from_numpy(one.pixels(split.images.shape[1], split.images.shape[2]))
    y = torch.tensor([split.classes.index(one.label)])
    return replace(split, images=pixels[None], y=y, masks=None, names=(one.name,))
