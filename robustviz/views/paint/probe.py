"""Measures an attack with a painted budget: the full ε on some pixels of one image, a smaller one
on the rest.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import attacks, cam, methods, nets
from robustviz.runs.folder import Run
from robustviz.stats import Bools
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.measure import image_of, meta_of, net_of, probe, radius
from robustviz.views.paint.result import NAMED, Painted, PaintedSpec, from_text, grid

# share of the cells that `centre`, `strongest` and (about) `edge` allow: equal, to be comparable
SHARE = 0.25


def cells_of(run: Run, index: int, mask: str) -> Bools:
    """Which cells of a test image get the full ε, (rows, columns) booleans.

    `mask` is a painted mask as text (see `to_text`) or a name from `NAMED`: `all`, `none`, `centre`
    (the middle quarter), `edge` (a frame of about a quarter), and two that depend on the run's
    network. `strongest`: the quarter of the cells with the largest |input gradient| of the
    cross-entropy, summed over channels and averaged over the cell's pixels. `part`: the cells at
    least half of which are in PART's mask (`z>1` of Grad-CAM at the true class).

    Raises UserError for a text that is not a mask, for an image that does not exist, and for `part`
    if the network has no feature maps.
    """
    _, x, y = image_of(run, index)
    rows, columns, side = grid(x.shape[2], x.shape[3])
    if mask not in NAMED:
        return from_text(mask, rows, columns)
    cells = np.full((rows, columns), mask in ("all", "edge"))
    if mask == "centre":
        cells[rows // 4 : rows - rows // 4, columns // 4 : columns - columns // 4] = True
    if mask == "edge":
        thick = max(1, round(min(rows, columns) * (1 - (1 - SHARE) ** 0.5) / 2))
        cells[thick : rows - thick, thick : columns - thick] = False
    if mask not in ("strongest", "part"):
        return cells
    net = net_of(run)
    if mask == "part":
        if not isinstance(getattr(net, "maps", None), torch.nn.Module):
            raise UserError(
                "This network has no feature maps, so PART's mask cannot be computed: choose other"
                " pixels."
            )
        chosen = cam.importance_mask(
            methods.PART().heat(net, x, y), "z>1", (x.shape[2], x.shape[3])
        )
        return (_by_cell(chosen.float(), side) >= 0.5).numpy()
    with nets.frozen(net), torch.enable_grad():
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(net(leaf), y), leaf)
    strength = _by_cell(gradient.abs().sum(1, keepdim=True), side)
    order = strength.flatten().argsort(descending=True, stable=True)
    cells.flat[order[: round(SHARE * rows * columns)]] = True
    return cells


def _by_cell(values: Tensor, side: int) -> Tensor:
    """The mean of values (1, 1, H, W) over the pixels of each cell, (rows, columns)."""
    return F.avg_pool2d(values, side, ceil_mode=True)[0, 0]


@probe(PaintedSpec)
def painted(run: Run, spec: PaintedSpec) -> Painted:
    """Attack one test image within a painted budget, and for comparison with the full ε everywhere.
    Raises UserError where `cells_of` does, and unless 0 ≤ `eps_low` ≤ ε ≤ 1.
    """
    split, x, y = image_of(run, spec.index)
    net, eps = net_of(run), check_eps(radius(run) if spec.eps is None else spec.eps)
    height, width = x.shape[2:]
    block = np.ones(2 * grid(height, width)[2:], bool)
    mask = np.kron(cells_of(run, spec.index, spec.mask), block)[:height, :width]
    budget = cam.budget_map(torch.from_numpy(mask)[None, None], eps, spec.eps_low)
    # both attacks have the same step size and the same random start
    attack = attacks.PGD(eps=eps, steps=spec.steps)
    rng = torch.Generator()
    # the uniform attack is bit for bit that of the other pages
    full = attack(net, x, y, rng=rng.manual_seed(spec.seed))
    with nets.frozen(net):
        goal, rng = attack.objective(net, y), rng.manual_seed(spec.seed)
        alike = bool((budget == budget.new_tensor(eps)).all())
        within = full if alike else attack.maximise(goal, x, eps=budget, rng=rng)
        every = torch.cat([x, within, full])
        with torch.no_grad():
            probs = net(every).softmax(dim=1).numpy()
    images = every.numpy()
    change = np.abs(images[1] - images[0]).max(axis=0)
    result = Painted(
        x=images[0],
        x_adv=images[1],
        x_full=images[2],
        mask=mask,
        y=int(y),
        probs=probs[0],
        probs_adv=probs[1],
        probs_full=probs[2],
        eps=eps,
        eps_low=spec.eps_low,
        inside=float(change[mask].max(initial=0)),
        outside=float(change[~mask].max(initial=0)),
        meta=meta_of(run, split, steps=spec.steps, seed=spec.seed, index=spec.index),
    )
    words = {"budget": allowance(result), "outcome": outcome(result)}
    result.meta.update(words, summary=" ".join(words.values()))
    return result


def allowance(result: Painted) -> str:
    """A sentence on how many pixels may change, and by how much."""
    allowed, total = int(result.mask.sum()), result.mask.size
    low = f" The others may change by {eps_text(result.eps_low)}." * (
        result.eps_low > 0 and allowed < total
    )
    rest = low or " The others may not change at all." * (allowed < total)
    return (
        f"{allowed} of {total} pixels ({allowed / total:.0%}) may change by"
        f" {eps_text(result.eps)}.{rest}"
    )


def outcome(result: Painted) -> str:
    """Sentences on whether the attack within the painted budget, and the one with the full ε
    everywhere, fool the network.
    """
    names = result.meta["classes"]
    (before, was), (after, now), (full, then) = (
        (int(probs.argmax()), float(probs.max()))
        for probs in (result.probs, result.probs_adv, result.probs_full)
    )
    if before != result.y:
        return (
            f"The network is wrong already without an attack: it predicts {names[before]}"
            f" ({was:.0%}), the true class is {names[result.y]}. Attacked: {names[after]}"
            f" ({now:.0%})."
        )
    moved = f"{names[before]} ({was:.0%}) → {names[after]} ({now:.0%})"
    held = after == result.y
    idle = result.eps == 0 or (result.eps_low == 0 and not result.mask.any())
    verdict = "it withstands this attack" if held else "the network was fooled"
    out = f"No pixel may change: {moved}." if idle else f"{moved}: {verdict}."
    if result.uniform:
        return (
            f"{out} The budget is the same on every pixel, as in the attacks used for robust"
            " accuracy."
        )
    everywhere, answer = f"{eps_text(result.eps)} on every pixel", f"({names[full]}, {then:.0%})"
    there = {
        (True, True): f"It withstands {everywhere}, too {answer}.",
        (True, False): f"The same PGD with {everywhere} did not fool it {answer}. But that budget"
        " contains this perturbation, so it is not robust there.",
        (False, True): f"But {everywhere} would have fooled it {answer}.",
        (False, False): f"{everywhere} fools it, too {answer}.",
    }
    return f"{out} {there[full == result.y, held]}"
