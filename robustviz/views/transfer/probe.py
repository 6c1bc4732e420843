"""Does a trick for one network fool another? Images made on one run's network, shown to others that
it never saw.

An image counts only where it can tell something: both networks know it untouched, and each is
fooled by its own attack. The published repository chains `.eq()` over these four facts, which is
their parity: 8 of the 16 cases pass there (both networks wrong untouched, say), and only one is
meant.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from robustviz import losses, registry
from robustviz.attacks import FGSM, PGD, Attack
from robustviz.data import Dataset
from robustviz.inputs import in_parts
from robustviz.methods import ModelAlignment
from robustviz.nets import frozen
from robustviz.registry import option, register
from robustviz.runs.folder import Run, all_runs
from robustviz.stats import Bools
from robustviz.training.evaluate import attacked, count_right, fingerprint
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.measure import Probe, images_of, linf_net, meta_of, net_of
from robustviz.views.transfer.result import Transfer, WhiteBox

B = TypeVar("B", Bools, Tensor)


def qualified(clean_source: B, clean_target: B, fooled_source: B, fooled_target: B) -> B:
    """Which images count, bool: both networks are right on the untouched image and each is fooled
    by its own attack.

    Source: Ma et al. 2024 (arXiv 2311.18495). Differs: a logical and; the authors'
    `return_qualified` computes a parity.
    """
    return clean_source & clean_target & fooled_source & fooled_target


def white_box(run: Run, few: Dataset, eps: float, steps: int, seed: int = 0) -> WhiteBox:
    """What the run's network makes of these images, and which of those it knows its own attack
    spoils.

    The attack is FGSM, then PGD with step ε/4 on what FGSM left. Kept in the run's probe cache.
    """
    name = registry.key(
        {"eps": eps, "steps": steps, "seed": seed, "images": fingerprint(few)}
    ).replace("dict", "white-box")
    kept = run.cached(WhiteBox, name)
    if kept is not None:
        return kept
    net, x, y = net_of(run), few.x, few.y
    logits = logits_of(net, x)
    right = logits.argmax(dim=1) == y
    fooled, left = torch.zeros_like(right), right.nonzero().flatten()
    for attack in (FGSM(eps=eps), PGD(eps=eps, steps=steps, step_size=eps / 4)):
        held = count_right(net, x[left], y[left], attack, seed)
        fooled[left[~held]] = True
        left = left[held]
    out = WhiteBox(
        logits.numpy(),
        right.numpy(),
        fooled.numpy(),
        meta={"run": run.id, "eps": eps, "steps": steps, "seed": seed},
    )
    run.keep(name, out)
    return out


def logits_of(net: nn.Module, x: Tensor) -> Tensor:
    """Logits (N,K) of images (N,C,H,W), in eval mode."""
    with frozen(net), torch.no_grad():
        return torch.cat([net(part) for part in in_parts(x)])


@register("probe/transfer")
@dataclass(frozen=True)
class TransferSpec(Probe[Transfer]):
    """Attack the first `n` test images on the run's network and show them to the targets.

    A target's own attack is always PGD (`white_box`), so that all attacks share that part; the
    source's own attack is the one that makes the images. For a `model_alignment` run the same is
    done with its source before alignment, and the two are compared on the images that qualify for
    both.
    """

    targets: str = option(
        "",
        "Runs that are shown the images, with commas between; empty: the shipped ordinary networks"
        " of this data, but not the run itself, its source and its witness.",
    )
    attack: Literal["pgd", "mim", "dim", "tim"] = option("pgd", "The attack.")
    # Half of the white-box ε, as 4/255 against 8/255 in Ma et al.
    eps: float | None = option(None, "Radius in pixel units; empty: half the run's.", low=0)
    steps: int = option(20, "Steps, of ε/4 each.", low=1, high=1000)
    n: int = option(1000, "How many test images.", low=1)
    seed: int = option(0, "Seed of the attack's noise.", low=0)

    def made(self, run: Run) -> Attack:
        """The attack with all its settings."""
        eps = check_eps(run.eps / 2 if self.eps is None else self.eps)
        made: Attack = registry.build(
            registry.get("attack", self.attack),
            {"eps": eps, "steps": self.steps, "step_size": eps / 4},
        )
        return made

    result = Transfer

    def name(self, run: Run) -> str:
        """Weights of the other networks count too. Raises UserError for no targets, and for one
        that is no unseen network or was trained on other images.
        """
        before, witness = relatives(run)
        others = *self._targets(run, before, witness), *filter(None, (before, witness))
        known = ",".join(f"{one.id}@{one.weights}" for one in others)
        return registry.key(replace(self, eps=float(self.made(run).eps or 0), targets=known))

    def measure(self, run: Run) -> Transfer:
        """The result. Raises UserError as `name` does, and for a run trained in l2."""
        net, attack = linf_net(run), self.made(run)
        before, witness = relatives(run)
        targets = self._targets(run, before, witness)
        eps = float(attack.eps or 0)
        started = time.process_time()
        split = images_of(run)
        few = split.take(torch.arange(min(self.n, len(split))))
        others = [white_box(target, few, eps, self.steps, self.seed) for target in targets]
        logits = logits_of(net, few.x)
        right = (logits.argmax(dim=1) == few.y).numpy()
        x_adv = attacked(net, few.x, few.y, attack, self.seed)
        fooled = ~count_right(net, x_adv, few.y).numpy()
        wrong = np.stack([~count_right(net_of(target), x_adv, few.y).numpy() for target in targets])
        allowed = np.stack(
            [qualified(right, other.right, fooled, other.fooled) for other in others]
        )
        models = [
            (run, logits),
            *(
                (target, torch.from_numpy(other.logits))
                for target, other in zip(targets, others, strict=True)
            ),
        ]
        models += [
            (one, logits_of(net_of(one), few.x)) for one in (before, witness) if one is not None
        ]
        nothing = np.zeros((0, len(few)), dtype=bool)
        earlier = (
            replace(self, eps=eps, targets=",".join(target.name for target in targets))(before)
            if before
            else None
        )
        out = Transfer(
            targets=[target.id for target in targets],
            qualified=allowed,
            wrong=wrong,
            before_qualified=earlier.qualified if earlier else nothing,
            before_wrong=earlier.wrong if earlier else nothing,
            models=[one.id for one, _ in models],
            kl=np.array([[float(losses.kl(p, q)) for _, q in models] for _, p in models]),
            accuracy=np.array(
                [float((found.argmax(dim=1) == few.y).double().mean()) for _, found in models]
            ),
            meta=meta_of(
                run,
                split,
                attack=registry.encode(attack),
                eps=eps,
                seed=self.seed,
                n=len(few),
                labels=[label(one) for one, _ in models],
                groups=[one.config.method.group for one, _ in models],
                before=before.id if before else None,
                witness=witness.id if witness else None,
                seconds=round(time.process_time() - started, 1),
            ),
        )
        out.meta["summary"] = sentence(out)
        return out

    def _targets(self, run: Run, before: Run | None, witness: Run | None) -> list[Run]:
        seen = {
            one.path.resolve(): role
            for one, role in ((witness, "witness"), (before, "source"), (run, "run itself"))
            if one is not None
        }
        names = [name.strip() for name in self.targets.split(",") if name.strip()]
        if not names:
            found = [
                one
                for one in all_runs()
                if one.shipped
                and one.method_key == "standard"
                and one.info.get("data") == run.info.get("data")
                and one.path.resolve() not in seen
            ]
            if not found:
                raise UserError(
                    f"No ordinary {run.data_key} network is shipped that could be a target of"
                    f" {run.id}: train one (--method standard --net small_cnn --seed 1) and name it"
                    " with --set targets=RUN,RUN."
                )
            return found
        found = list({one.path.resolve(): one for one in map(run.config.trained, names)}.values())
        for one in found:
            if one.path.resolve() in seen:
                raise UserError(
                    f"{one.id} is the {seen[one.path.resolve()]}, so it is no unseen target: choose"
                    " another.",
                    code=2,
                )
            if (one.data_key, one.shape, one.classes) != (run.data_key, run.shape, run.classes):
                raise UserError(
                    f"{one.id} was trained on other images or classes than {run.id}: choose targets"
                    f" of the data {run.data_key}."
                )
        return found


def relatives(run: Run) -> tuple[Run | None, Run | None]:
    """(what the run's network was before alignment, the witness) of a `model_alignment` run, (None,
    None) of any other.
    """
    method = run.config.method
    if not isinstance(method, ModelAlignment):
        return None, None
    method = method.resolved(run.config)
    return run.config.trained(str(method.source)), run.config.trained(str(method.witness))


def label(run: Run) -> str:
    """A run as a table names it: its method unless it is an ordinary one, its architecture and its
    seed.
    """
    method = "" if run.method_key == "standard" else f"{run.method_key} "
    return f"{method}{run.architecture} seed {run.info.get('seed')}"


def sentence(found: Transfer) -> str:
    """What was measured, in one sentence."""
    names = dict(zip(found.models, found.meta["labels"], strict=True))
    said = []
    for row, target in enumerate(found.targets):
        if not found.n[row]:
            said.append(f"{names[target]}: no image qualifies")
            continue
        low, high = found.interval[row]
        text = (
            f"{names[target]} {100 * found.error[row]:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of"
            f" {found.n[row]}"
        )
        if found.aligned and found.paired[row, 0]:
            low, high = found.difference_interval[row]
            text += (
                f" ({100 * found.difference[row]:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] points"
                f" since before the alignment, on the {found.paired[row, 0]} that qualify for both)"
            )
        said.append(text)
    return (
        f"{attack_name(found.meta['attack'] | {'step_size': None})} images at ε ="
        f" {eps_text(found.meta['eps'])} made on {found.meta['run']} fool, of the qualified ones:"
        f" {'; '.join(said)}."
    )
