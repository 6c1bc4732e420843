"""The probes of the Transfer page: images are attacked on one run's network and shown to networks
that the attack did not use. `transfer` counts only images that qualify (`qualified`); `fooled`
counts all.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from robustviz import losses, progress, registry
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.data import Dataset
from robustviz.inputs import in_parts
from robustviz.methods import ModelAlignment
from robustviz.nets import frozen
from robustviz.runs.folder import Run, all_runs, find_run
from robustviz.runs.naming import unusual
from robustviz.stats import Bools
from robustviz.training.evaluate import attacked, count_right, fingerprint
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.measure import images_of, meta_of, net_of, probe, radius
from robustviz.views.transfer.family import origin
from robustviz.views.transfer.result import Fooled, FooledSpec, Transfer, TransferSpec, WhiteBox

B = TypeVar("B", Bools, Tensor)


def qualified(clean_source: B, clean_target: B, fooled_source: B, fooled_target: B) -> B:
    """Which images qualify, as a mask: both networks classify the clean image correctly, and each
    is fooled by its own attack.

    Source: Ma et al. 2024 (arXiv 2311.18495). Differs: a logical and. The authors'
    `return_qualified` chains `.eq()` over the four facts and so computes their parity: 8 of the 16
    cases pass (for example both networks wrong on the clean image), and only one is meant.
    """
    return clean_source & clean_target & fooled_source & fooled_target


def white_box(run: Run, few: Dataset, eps: float, steps: int, seed: int = 0) -> WhiteBox:
    """The logits of a run's network for the clean images `few`, and which of the correctly
    classified ones its own attack fools.

    The attack is linf FGSM, then PGD with step ε/4 on the images that FGSM did not fool. The result
    is stored in the run's folder, and the next call with the same arguments reads it there.
    """
    name = registry.key(
        {"eps": eps, "steps": steps, "seed": seed, "images": fingerprint(few)}
    ).replace("dict", "white-box")
    if (kept := run.cached(WhiteBox, name)) is not None:
        return kept
    net, x, y = net_of(run), few.x, few.y
    logits = logits_of(net, x)
    right = logits.argmax(dim=1) == y
    left = right.nonzero().flatten()
    for attack in (FGSM(eps=eps), PGD(eps=eps, steps=steps, step_size=eps / 4)):
        left = left[count_right(net, x[left], y[left], attack, seed)]
    result = WhiteBox(
        logits.numpy(),
        right.numpy(),
        right.index_fill(0, left, False).numpy(),
        meta={"run": run.id, "eps": eps, "steps": steps, "seed": seed},
    )
    run.keep(name, result)
    return result


def logits_of(net: nn.Module, x: Tensor) -> Tensor:
    """Logits (N,K) of images (N,C,H,W), in eval mode."""
    with frozen(net), torch.no_grad():
        return torch.cat([net(part) for part in in_parts(x, size=getattr(net, "size", None))])


def attack_of(run: Run, spec: TransferSpec | FooledSpec) -> Attack:
    """The linf attack of a spec, with its ε and number of steps. If the spec names no ε, a
    `FooledSpec` gets the run's ε and a `TransferSpec` half of it; for a run trained in l2, its
    data's default ε stands for the run's. The steps of a `TransferSpec` have size ε/4. Raises
    UserError for an invalid radius.
    """
    half = isinstance(spec, TransferSpec)
    eps = check_eps((radius(run) / 2 if half else radius(run)) if spec.eps is None else spec.eps)
    step = {"step_size": eps / 4} if half else {}
    return cast(
        Attack,
        registry.build(
            registry.get("attack", spec.attack), {"eps": eps, "steps": spec.steps, **step}
        ),
    )


def targets_of(run: Run, spec: TransferSpec) -> list[Run]:
    """The runs that are shown the images: those named in the spec, else the shipped networks
    trained without a defence on the same data, except `run`, its source and its witness. Raises
    UserError if there is none; for a named run that does not exist, is one of these three or was
    trained on other images or classes; and where `relatives` does.
    """
    before, witness = relatives(run)
    roles = {"witness": witness, "source": before, "run itself": run}
    seen = {each.path.resolve(): role for role, each in roles.items() if each is not None}
    targets = named_runs(run, spec.targets, "target")
    for each in targets:
        if each.path.resolve() in seen:
            raise UserError(
                f"{each.id} is the {seen[each.path.resolve()]}, so it is not an unseen target:"
                " choose another run.",
                code=2,
            )
    targets = targets or ordinary(run, filter(None, roles.values()))
    if not targets:
        raise UserError(
            f"No ordinary {run.data_key} network is shipped that could be a target of {run.id}:"
            " train one (--method standard --net small_cnn --seed 1) and name it with --set"
            " targets=RUN,RUN."
        )
    return targets


def _name(run: Run, spec: TransferSpec) -> str:
    """Returns the cache key, which includes ε and the hashes of the other networks' weights."""
    return registry.key(
        replace(
            spec,
            eps=float(attack_of(run, spec).eps or 0),
            targets=",".join(
                f"{each.id}@{each.weights}"
                for each in (*targets_of(run, spec), *filter(None, relatives(run)))
            ),
        )
    )


@probe(TransferSpec, name=_name)
def transfer(run: Run, spec: TransferSpec) -> Transfer:
    """Measure how often images attacked on the run's network fool target networks, which the attack
    did not use. Raises UserError where `attack_of` or `targets_of` does.
    """
    net, attack = net_of(run), attack_of(run, spec)
    before, witness = relatives(run)
    targets, eps = targets_of(run, spec), float(attack.eps or 0)
    started = time.process_time()
    split = images_of(run)
    few = split.take(torch.arange(min(spec.n, len(split))))
    others = [white_box(target, few, eps, spec.steps, spec.seed) for target in targets]
    own = logits_of(net, few.x)
    right = (own.argmax(dim=1) == few.y).numpy()
    x_adv = attacked(net, few.x, few.y, attack, spec.seed)
    fooled = ~count_right(net, x_adv, few.y).numpy()
    models = [run, *targets, *filter(None, (before, witness))]
    logits = [
        own,
        *(torch.from_numpy(other.logits) for other in others),
        *(logits_of(net_of(each), few.x) for each in models[1 + len(others) :]),
    ]
    nothing = np.zeros((0, len(few)), dtype=bool)
    earlier = (
        transfer(
            before, replace(spec, eps=eps, targets=",".join(target.name for target in targets))
        )
        if before
        else None
    )
    result = Transfer(
        targets=[target.id for target in targets],
        qualified=np.stack([qualified(right, each.right, fooled, each.fooled) for each in others]),
        wrong=np.stack([~count_right(net_of(each), x_adv, few.y).numpy() for each in targets]),
        before_qualified=earlier.qualified if earlier else nothing,
        before_wrong=earlier.wrong if earlier else nothing,
        models=[each.id for each in models],
        kl=np.array([[float(losses.kl(p, q)) for q in logits] for p in logits]),
        accuracy=np.array([float((z.argmax(dim=1) == few.y).double().mean()) for z in logits]),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=eps,
            seed=spec.seed,
            n=len(few),
            labels=[label(each) for each in models],
            groups=[each.config.method.group for each in models],
            before=before.id if before else None,
            witness=witness.id if witness else None,
            seconds=round(time.process_time() - started, 1),
        ),
    )
    result.meta["summary"] = sentence(result)
    return result


def relatives(run: Run) -> tuple[Run | None, Run | None]:
    """Returns (source before alignment, witness) of a `model_alignment` run, (None, None) of any
    other. Raises UserError where one of them is missing.
    """
    method = run.config.method
    if not isinstance(method, ModelAlignment):
        return None, None
    method = method.resolved(run.config, find_run)
    return find_run(method.source), find_run(method.witness)


def trained_alike(run: Run, name: str, role: str) -> Run:
    """The run with the id or path `name`. Raises UserError if there is none, or if it was trained
    on other images or classes than `run`; the message calls it the `role`.
    """
    other = find_run(name)
    if (other.data_key, other.shape, other.classes) != (run.data_key, run.shape, run.classes):
        raise UserError(
            f"The {role} {other.id} was trained on other images or classes than {run.id}: choose a"
            f" {role} trained on {run.data_key}."
        )
    return other


def named_runs(run: Run, names: str, role: str) -> list[Run]:
    """The runs in `names`, a comma-separated list, each once. Raises UserError where
    `trained_alike` does.
    """
    runs = [trained_alike(run, name.strip(), role) for name in names.split(",") if name.strip()]
    return list({each.path.resolve(): each for each in runs}.values())


def ordinary(run: Run, but: Iterable[Run]) -> list[Run]:
    """The shipped networks trained without a defence (`Run.ordinary`) on the run's data, except
    those in `but`.
    """
    left_out = {each.path.resolve() for each in but}
    return [
        each
        for each in all_runs()
        if each.ordinary
        and each.info.get("data") == run.info.get("data")
        and each.path.resolve() not in left_out
    ]


def label(run: Run) -> str:
    """A run's name in a table: its method unless that is standard training, its architecture, its
    seed, and its unusual settings.
    """
    method = "" if run.method_key == "standard" else f"{run.method_key} "
    return ", ".join((f"{method}{run.architecture} seed {run.info.get('seed')}", *unusual(run)))


def sentence(result: Transfer) -> str:
    """One sentence: the attack, the share of the qualifying images that fool each target, with its
    95% interval, and for an aligned source how the alignment changed these shares.
    """
    labels = result.meta["labels"][1 : 1 + len(result.targets)]
    return (
        f"{attack_name(result.meta['attack'] | {'step_size': None})} images at ε ="
        f" {eps_text(result.meta['eps'])}, attacked on {result.meta['run']}: of the qualifying"
        " images, these shares fool each target:"
        f" {'; '.join(_fooled(result, row, name) for row, name in enumerate(labels))}."
    )


def _fooled(result: Transfer, row: int, name: str) -> str:
    """How often the target in that row is fooled, and how an alignment changed that, in words."""
    if not result.n[row]:
        return f"{name}: no image qualifies"
    low, high = result.interval[row]
    text = (
        f"{name} {100 * result.error[row]:.1f}% [{100 * low:.1f}, {100 * high:.1f}] of"
        f" {result.n[row]}"
    )
    if not (result.aligned and result.paired[row, 0]):
        return text
    low, high = result.difference_interval[row]
    return (
        f"{text} ({100 * result.difference[row]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
        f" percentage points compared with before the alignment, on the {result.paired[row, 0]}"
        " images that qualify both times)"
    )


def shown_to(run: Run, spec: FooledSpec) -> list[Run]:
    """The runs that are shown the images, each once: `run`, then its aligned copies among the
    others, then all shipped networks on the same data and the runs in `spec.also`. Raises UserError
    where `named_runs` does.
    """
    shipped = [
        each for each in all_runs() if each.shipped and each.info["data"] == run.info["data"]
    ]
    every = [*shipped, *named_runs(run, spec.also, "target")]
    copies = [each for each in every if run.id in origin(each)[:1]]
    return list({each.path.resolve(): each for each in (run, *copies, *every)}.values())


def _fooled_name(run: Run, spec: FooledSpec) -> str:
    """Returns the cache key, which includes ε and the hashes of the other networks' weights."""
    others = ",".join(f"{each.id}@{each.weights}" for each in shown_to(run, spec))
    return registry.key(replace(spec, also=others, eps=float(attack_of(run, spec).eps or 0)))


@probe(FooledSpec, name=_fooled_name)
def fooled(run: Run, spec: FooledSpec) -> Fooled:
    """Measure which networks are fooled by images attacked on the run's network and on its aligned
    copies. All images count, not only those that qualify. Raises UserError where `attack_of` or
    `shown_to` does.
    """
    attack, split, models = attack_of(run, spec), images_of(run), shown_to(run, spec)
    few = split.take(torch.arange(min(spec.n, len(split))))
    sources = [each for each in models if each is run or run.id in origin(each)[:1]]
    progress.expect(len(few) * (len(sources) + len(models)))
    made = [few.x, *(attacked(net_of(each), few.x, few.y, attack, spec.seed) for each in sources)]
    packed = []
    for each in models:
        net = net_of(each)
        wrong = [(logits_of(net, x).argmax(dim=1) != few.y).numpy() for x in made]
        packed.append(np.packbits(wrong, axis=1))
        progress.count(len(few))
    bits = np.stack(packed, axis=1)
    result = Fooled(
        sources=[each.id for each in sources],
        models=[each.id for each in models],
        clean=bits[0],
        wrong=bits[1:],
        n=len(few),
        meta=meta_of(
            run,
            split,
            attack=registry.encode(attack),
            eps=float(attack.eps or 0),
            seed=spec.seed,
            of=len(split),
            witness={each.id: origin(each)[1] for each in sources[1:]},
            shown=[
                {
                    "label": label(each),
                    "method": each.method_key,
                    "net": each.architecture,
                    "seed": each.info.get("seed"),
                    "ordinary": each.ordinary,
                    "settings": list(unusual(each)),
                    "target": each.info["method"].get("target", ""),
                }
                for each in models
            ],
        ),
    )
    result.meta["summary"] = (
        f"{attack_name(registry.encode(attack))} images at ε ="
        f" {eps_text(float(attack.eps or 0))} attacked on {run.id} fool it on"
        f" {int(result.fooled(run.id).sum())} of {result.n}"
    )
    return result
