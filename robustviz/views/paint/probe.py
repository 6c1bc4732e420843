"""An attacker with a budget that a person painted: the full ε on some pixels of one image, a
smaller one on the rest.

A mask is a grid of cells, one a pixel up to 32×32 and a block of pixels in larger images, so that
its text stays short enough for an address: the cells row by row, eight in a byte, as base64url.
"""

from __future__ import annotations

import base64
import binascii

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import attacks, cam, methods, nets
from robustviz.runs.folder import Run
from robustviz.stats import Bools
from robustviz.types import UserError, check_eps, eps_text
from robustviz.views.measure import image_of, linf_net, meta_of, probe
from robustviz.views.paint.result import NAMED, Painted, PaintedSpec

CELLS = 32  # the most in a row or column of the grid
# of the cells that `centre`, `edge` (about) and `strongest` allow, so that they can be compared
SHARE = 0.25


def grid(height: int, width: int) -> tuple[int, int, int]:
    """(rows, columns, pixels along a cell's side) of the grid over an image; the last row and
    column may be cut off.
    """
    side = -(-max(height, width) // CELLS)
    return -(-height // side), -(-width // side), side


def to_text(cells: Bools) -> str:
    """The text of a mask (rows, columns): 11 characters for 8×8 cells, 171 for 32×32."""
    return base64.urlsafe_b64encode(np.packbits(cells).tobytes()).decode().rstrip("=")


def from_text(text: str, rows: int, columns: int) -> Bools:
    """The mask (rows, columns) of which this is the text. Raises UserError for any other text."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        packed = b""
    if len(packed) != -(-rows * columns // 8):
        raise UserError(
            f"This is no painted mask for a grid of {rows}×{columns}: it must be"
            f" {len(to_text(np.zeros((rows, columns), bool)))} characters of base64url, or one of"
            f" {', '.join(NAMED)}.",
            code=2,
        )
    return (
        np.unpackbits(np.frombuffer(packed, np.uint8))[: rows * columns]
        .reshape(rows, columns)
        .astype(bool)
    )


def cells_of(run: Run, index: int, mask: str) -> Bools:
    """The cells (rows, columns) that a mask allows on a test image; what `strongest` and `part`
    choose depends on the run.

    `strongest`: the quarter of the cells with the largest |input gradient| of the cross-entropy,
    summed over their pixels and channels. `part`: where at least half of a cell is in PART's mask
    (`z>1` of Grad-CAM at the true class). Raises UserError for a text that is no mask, and for
    `part` where the network has no map to make one of.
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
    net = linf_net(run)
    if mask == "part":
        if not isinstance(getattr(net, "maps", None), torch.nn.Module):
            raise UserError(
                "This network has no feature maps to make PART's mask of: choose other pixels."
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
    """The mean of values (1,1,H,W) over each cell, (rows, columns)."""
    return F.avg_pool2d(values, side, ceil_mode=True)[0, 0]


@probe(PaintedSpec)
def painted(run: Run, spec: PaintedSpec) -> Painted:
    """One test image attacked within a painted budget."""
    split, x, y = image_of(run, spec.index)
    net, eps = linf_net(run), check_eps(run.eps if spec.eps is None else spec.eps)
    height, width = x.shape[2:]
    block = np.ones(2 * grid(height, width)[2:], bool)
    mask = np.kron(cells_of(run, spec.index, spec.mask), block)[:height, :width]
    budget = cam.budget_map(torch.from_numpy(mask)[None, None], eps, spec.eps_low)
    attack = attacks.PGD(eps=eps, steps=spec.steps)  # one step size for both, and one random start
    rng = torch.Generator()
    with nets.frozen(net):
        attacked = [
            attack.maximise(attack.objective(net, y), x, eps=radius, rng=rng.manual_seed(spec.seed))
            for radius in (budget, eps)
        ]
        with torch.no_grad():
            probs = net(torch.cat([x, *attacked])).softmax(dim=1).numpy()
    images = torch.cat([x, *attacked]).numpy()
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
    """How many pixels may change by how much."""
    allowed, total = int(result.mask.sum()), result.mask.size
    low = f", the others by {eps_text(result.eps_low)}" if result.eps_low > 0 else ""
    rest = low or (", the others not at all" if allowed < total else "")
    return (
        f"{allowed} of {total} pixels ({allowed / total:.0%}) may change by"
        f" {eps_text(result.eps)}{rest}."
    )


def outcome(result: Painted) -> str:
    """What the painted attack did to this image, and whether the uniform one would have fooled the
    network.
    """
    names = result.meta["classes"]
    (before, was), (after, now), (full, then) = (
        (int(probs.argmax()), float(probs.max()))
        for probs in (result.probs, result.probs_adv, result.probs_full)
    )
    if before != result.y:
        return (
            f"This model is wrong already without an attack: it says {names[before]} ({was:.0%}),"
            f" it is a {names[result.y]}. Attacked: {names[after]} ({now:.0%})."
        )
    moved = f"{names[before]} ({was:.0%}) → {names[after]} ({now:.0%})"
    held = after == result.y
    idle = result.eps == 0 or (result.eps_low == 0 and not result.mask.any())
    verdict = "it holds against this attack" if held else "this model was fooled"
    out = f"Nothing can happen: {moved}." if idle else f"{moved}: {verdict}."
    if result.uniform:
        return f"{out} That is the same budget everywhere, the attacker of every robust number."
    everywhere, answer = f"{eps_text(result.eps)} on every pixel", f"({names[full]}, {then:.0%})"
    there = {
        (True, True): f"It holds against {everywhere}, too {answer}.",
        (True, False): f"The same PGD with {everywhere} missed that {answer}; what fools with a"
        " smaller budget counts there as well.",
        (False, True): f"But {everywhere} would have fooled it {answer}.",
        (False, False): f"{everywhere} fools it, too {answer}.",
    }
    return f"{out} {there[full == result.y, held]}"
