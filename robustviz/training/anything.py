"""`robustviz.evaluate`: measures the accuracy under attack of any network on any images, in the
same way and with the same checks (`training.doctor`) as for a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, TypedDict, Unpack, overload

import torch
from torch import nn

from robustviz import data as sources, registry
from robustviz.attacks import Attack
from robustviz.data import Dataset, Source
from robustviz.data.given import given
from robustviz.inputs import check_images, try_out
from robustviz.nets.attackable import attackable, copied, device_of
from robustviz.process import default_threads, threads
from robustviz.runs.folder import Run
from robustviz.runs.weights import hash_of
from robustviz.training.config import norm_of, pick_device
from robustviz.training.evaluate import LADDER, climbed, measure
from robustviz.training.evaluation import Evaluation, Finding
from robustviz.training.ladder import Ladder
from robustviz.types import UserError, check_eps, parse_number

Norm = Literal["linf", "l2"]


class How(TypedDict, total=False):
    """The keyword arguments of `evaluate`, whose docstring explains them."""

    eps: float | str | None
    norm: Norm | None
    n: int | None
    seed: int
    device: str | None
    say: Callable[[str], object] | None


@overload
def evaluate(
    net: Run | nn.Module, data: Any, attack: Literal["ladder"], **how: Unpack[How]
) -> Ladder: ...
@overload
def evaluate(  # type: ignore[overload-overlap]  # a text that is not "ladder"
    net: Run | nn.Module, data: Any = None, *, attack: Literal["ladder"], **how: Unpack[How]
) -> Ladder: ...
@overload
def evaluate(
    net: Run | nn.Module, data: Any = None, attack: str | Attack = ..., **how: Unpack[How]
) -> Evaluation: ...
def evaluate(
    net: Run | nn.Module,
    data: Any = None,
    attack: str | Attack = "pgd",
    *,
    eps: float | str | None = None,
    norm: Norm | None = None,
    n: int | None = None,
    seed: int = 0,
    device: str | None = None,
    say: Callable[[str], object] | None = None,
) -> Evaluation | Ladder:
    """Measure how many images `net` classifies correctly, clean and under `attack`, with 95%
    intervals, and check whether the result can be believed (`training.doctor`, including its active
    test). With `attack="ladder"` it runs FGSM, PGD-20, PGD-100×5, CW-100 and AutoAttack one after
    the other. Returns an `Evaluation`, or a `Ladder`; nothing is written to disk.

    `net`: any module that gives logits (N,K) for images in [0, 1], or a run; it is not changed. A
    module that expects normalised images must normalise them itself:
    `robustviz.wrap(module, mean=…, std=…)`. `data`: (x, y), a DataLoader, a PyTorch data set, a
    `Dataset`, or a `Source` or its name, whose test split is used; None: the test split of the
    run's data set. `attack`: a name ("pgd" takes 20 steps), or an attack with its own settings,
    `PGD(steps=100)`. `eps`: in pixel units, also as "8/255"; None: the ε of the attack, else of the
    run, else the default of the named data set. `norm`: for the ladder and for an attack given by
    name; None: the norm of the run's training, else linf. `n`: only the first n images of a seed-0
    stratified permutation (`robustviz.data.stratified_order`); None: all images, in the same order.
    `seed`: for the attack's random numbers. `device`: auto, cpu or cuda; None: the network's own.
    `say` is called with one line per attack of the ladder.

    A run's network on its test split gives the same numbers as `python -m robustviz evaluate`.
    Raises UserError for arguments that are not valid or do not fit together.
    """
    run = net if isinstance(net, Run) else None
    norm = norm or (norm_of(run.config) if run else "linf")
    images, usual = _images(data, run)
    count = int(run.config.threads or 1) if run else default_threads()
    with threads(count), _on(run.net() if run else net, device) as here:
        split = _with_classes(here, images.take(len(images) if n is None else n))
        mark = hash_of(here)

        def keep(row: Evaluation) -> Evaluation:
            return dataclasses.replace(row, weights=mark)

        if attack == "ladder":
            radius = _radius(None, eps, usual, norm)
            rungs = [dataclasses.replace(rung, norm=norm).bound(radius) for rung in LADDER]
            method = run.method_key if run else ""
            return climbed(here, split, rungs, seed=seed, say=say, keep=keep, method=method)
        one = _attack(attack, norm)
        one = dataclasses.replace(one, eps=_radius(one, eps, usual, one.norm))
        one.check(len(split.classes))
        found = keep(measure(here, split, one, seed=seed))
    return found if run else dataclasses.replace(found, doctor=tuple(map(_hinted, found.doctor)))


def _hinted(finding: Finding) -> Finding:
    """Returns the finding. If it is `learned`, and it warns or fewer than half of the untouched
    images are right, it is a warning with a hint at the usual reason in its text.
    """
    if finding.name != "learned" or not (finding.warning or finding.value < 0.5):
        return finding
    hint = " Does it expect normalised images? Then robustviz.wrap(net, mean=…, std=…)."
    return dataclasses.replace(finding, text=finding.text + hint, warning=True)


def _images(data: Any, run: Run | None) -> tuple[Dataset, float | None]:
    """Returns the images to evaluate on and the default ε for them: the ε of `run` if there is one,
    else that of the named data set, else None. Raises UserError if both `data` and `run` are None,
    and for the name of an attack.
    """
    if data is None:
        if run is None:
            raise UserError(
                "evaluate needs images as well as a network: (x, y), a DataLoader, a PyTorch data"
                " set, or the name of a data set such as digits."
            )
        data = run.config.data
    if isinstance(data, str):
        if data in ("ladder", *registry.keys("attack")) and data not in sources.own.every():
            raise UserError(f"{data!r} is an attack, not a data set: write attack={data!r}.")
        data = sources.source(data)
    if isinstance(data, Source):
        usual = run.eps if run else data.default_eps
        return sources.load(data, "test"), usual
    return given(data), run.eps if run else None


def _attack(attack: str | Attack, norm: Norm) -> Attack:
    if isinstance(attack, Attack):
        return attack
    if not isinstance(attack, str):
        raise UserError(
            f"{attack!r} is no attack: use ladder, a name such as pgd, or one of"
            " robustviz.attacks, e.g. PGD(steps=50); an ε is given as eps=…"
        )
    if attack[:1].isdigit():
        raise UserError(f"{attack!r} is no attack: if it is the ε, write eps={attack!r}.")
    settings = {"norm": norm} | ({"steps": 20} if attack == "pgd" else {})
    made: Attack = registry.build(registry.get("attack", attack), settings)
    return made


def _radius(
    attack: Attack | None, eps: float | str | None, usual: float | None, norm: str
) -> float:
    """Returns the ε to use: that of `attack` if it has one, else `eps`, else `usual`. Raises
    UserError if all three are None, or if `attack` has another ε than `eps`.
    """
    own = attack.eps if attack else None
    asked = None if eps is None else check_eps(parse_number(eps), norm)
    if own is not None and asked is not None and own != asked:
        raise UserError(f"The attack has eps={own:g}, and eps={asked:g} is asked for: say one.")
    found = next((each for each in (own, asked, usual) if each is not None), None)
    if found is None:
        raise UserError('No ε is known for these images: pass one, for example eps="8/255".')
    return found


@contextmanager
def _on(net: Run | nn.Module, device: str | None) -> Iterator[nn.Module]:
    """A context manager that yields the network for `device`: `net` itself if `device` is None, its
    own device, or the type of that, such as cuda; else a copy in eval mode that is moved there.
    Raises UserError if `net` is not a module, or if it must be copied and cannot be.
    """
    if isinstance(net, Mapping):
        raise UserError(
            "These are only the weights of a network: make the network, and load them into it with"
            " net.load_state_dict(…)."
        )
    if not isinstance(net, nn.Module):
        raise UserError(
            "A network is wanted, an nn.Module that gives logits, or a run, and this is a"
            f" {type(net).__name__}."
        )
    here, there = device_of(net), torch.device(pick_device(device) if device else device_of(net))
    if here.type == there.type and there.index in (None, here.index):
        yield net
        return
    twin = copied(net)
    if twin is None:
        raise UserError(f"This network cannot be copied: move it yourself, net.to({str(there)!r}).")
    yield twin.to(there)


def _with_classes(net: nn.Module, split: Dataset) -> Dataset:
    """Returns the split with as many class names as the network has logits, since a few images may
    not contain all classes: missing names become the class's index, surplus names are dropped.
    Raises UserError if a label has no logit, or if the network cannot read the images.
    """
    x = check_images(split.take(torch.arange(min(2, len(split)))).x).to(device_of(net))
    with torch.inference_mode(False), attackable(net, fused=False) as own:
        count = try_out(own, x).classes
    highest = int(split.y.max()) if len(split) else 0
    if highest >= count:
        raise UserError(
            f"A label is {highest}, but this network has {count} classes, 0 to {count - 1}: the"
            " images do not fit the network."
        )
    names = (*split.classes, *map(str, range(len(split.classes), count)))
    return dataclasses.replace(split, classes=names[:count])
