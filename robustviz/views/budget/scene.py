"""The Budget page's first screen: on the left, what a larger training ε does to real networks; on
the right, two blobs of points that show why.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from robustviz.stats import Floats, Ints, wilson
from robustviz.types import eps_text
from robustviz.views.budget.result import Balls, Family
from robustviz.views.drawing import Plot
from robustviz.views.screen import Control, Screen

CLASSES = ("light-dark(#00805C, #2CC295)", "light-dark(#A8507F, #DE95C0)")
DASH = "9 5"
SHARES = tuple((share / 100, f"{share}%") for share in (0, 50, 100))


def first(found: Family, blobs: Balls) -> Screen:
    """The first screen, from the networks `found` and the points `blobs`.
    Its slider sets the radius of the squares around the points.
    """
    names = [f"{eps:g}" for eps in blobs.eps]
    plane, moves = _plane(blobs)
    curve, more = _curve(blobs, 640, "")
    small, some = _curve(blobs, 360, "small-")
    half = "width:min({}px,100%);margin:0"
    return Screen(
        answer=[answer(blobs, at) for at in range(len(names))],
        picture=f'<div class="tiles" style="gap:1.6rem"><figure style="{half.format(500)}">'
        f'<p class="above">{_name(found)}, with increasing ε, {_seeds(found)}</p>'
        f'<div class="wide">{_family(found, 500)}</div>'
        f'<div class="small">{_family(found, 360)}</div>'
        f'<figcaption>{lesson(found)}</figcaption></figure><figure style="{half.format(640)}">'
        '<p class="above">Two classes of points. A square: what an attack may reach</p>'
        f'{plane}<div class="wide">{curve}</div><div class="small">{small}</div></figure></div>',
        alt=f"Left: {lesson(found)} Right: 60 points of two classes in squares that grow, the"
        " boundary that a network learns, and the share of new points that it gets right.",
        sure=protocol(found, blobs),
        control=Control("ε of the squares", names, _start(blobs), "squares"),
        moves=moves | more | some,
    )


def _start(blobs: Balls) -> int:
    """The index of the radius with which the slider starts.
    It is the first radius at which clean accuracy falls; the last one if it never does.
    """
    return next((at for at in range(len(blobs.eps)) if _fell(blobs, at)), len(blobs.eps) - 1)


def _fell(blobs: Balls, at: int) -> bool:
    """Whether clean accuracy at the radius with index `at` is below that at ε = 0.
    The accuracies are the first network's, and their 95% intervals must not overlap.
    """
    n, now, bare = (int(each) for each in (blobs.meta["n"], *blobs.clean_k[[at, 0], 0]))
    return wilson(now, n)[1] < wilson(bare, n)[0]


def answer(blobs: Balls, at: int) -> str:
    """The screen's answer at the radius with index `at`: whether the squares of the two classes
    overlap, and on how many test points the first network is right without an attack.
    """
    share = f"{blobs.clean_k[at, 0]:,} of {blobs.meta['n']:,}"
    if not blobs.eps[at]:
        return (
            f"At ε = 0 the network uses the gap between the classes: {share} new points are right."
        )
    if not blobs.meeting[at]:
        return (
            "The squares of the two classes do not overlap, so robustness need not cost accuracy:"
            f" {share} new points are right."
        )
    return (
        "Where squares of both classes overlap, no network can be right on all of them. Untouched,"
        f" {'only ' * _fell(blobs, at)}{share} new points are right."
    )


def lesson(found: Family) -> str:
    """Sentences on the networks of a data set: from which ε clean accuracy falls, how many networks
    learned nothing, and whether the data require a loss.
    """
    costs, lost = costly(found), int((~found.learned).sum())
    said = "No difference in clean accuracy is shown at any ε."
    if len(costs):
        said = (
            f"With ε = {eps_text(costs[0])} or more, every network is worse on untouched images"
            " than each ordinary one."
        )
    said += f" {apart(found)}"
    if len(costs) and found.meta["apart"] / 2 >= found.eps.max():
        said += " So the training costs accuracy here."
    return said + f" {lost} of {len(found.n)} learned nothing (pale dots)." * bool(lost)


def costly(found: Family) -> Floats:
    """Those training ε at which networks lose clean accuracy, in ascending order; may be empty.
    At such an ε and every larger one, the 95% interval of every network's clean accuracy lies
    below the intervals of all ordinary networks (ε = 0).
    """
    ends = np.array([wilson(int(k), int(n)) for k, n in zip(found.clean_k, found.n, strict=True)])
    floor = ends[found.eps == 0, 0].min(initial=1)
    below = [
        eps
        for eps in np.unique(found.eps)
        if (found.eps == 0).any() and (ends[found.eps >= eps, 1] < floor).all()
    ]
    return np.array(below)


def apart(found: Family) -> str:
    """A sentence on the ε from which squares (ℓ∞ balls) of training images of two classes overlap.
    If they overlap at none of the ε studied, the sentence adds that the data require no loss of
    accuracy.
    """
    half, largest = found.meta["apart"] / 2, float(found.eps.max())
    if half >= largest:
        return (
            f"Unlike the points' squares, those of images overlap only from ε ="
            f" {eps_text(half)} on: the data require no loss."
        )
    return f"Squares of training images of two classes overlap from ε = {eps_text(half)} on."


def unlearned(found: Family) -> list[str]:
    """A sentence for each network that learned nothing, and one on the accuracy of guessing.
    Returns an empty list if all networks learned.
    """
    lost = ~found.learned
    said = [
        f"{eps_text(eps)}, seed {seed}: {k} of {n} right"
        for eps, seed, k, n in zip(
            found.eps[lost], found.seed[lost], found.clean_k[lost], found.n[lost], strict=True
        )
    ]
    guess = f"Guessing is right on 1 of {found.meta['classes']}."
    return [f"Learned nothing: {each}." for each in said] + [guess] * bool(said)


def protocol(found: Family, blobs: Balls) -> list[str]:
    """Sentences on how both halves were measured: first the networks, then the points."""
    meta = found.meta
    bare = int((found.usual_k < 0).sum())
    low, high = blobs.clean_k[-1].min(), blobs.clean_k[-1].max()
    return [
        f"Left: every network faces the same attack, {meta['attack']} with"
        f" {eps_text(meta['usual'])}. An attack gives an upper bound on robustness.",
        f"For each ε {_seeds(found)}. Dots are networks. Lines are the means of those that"
        " learned.",
        f"The same {int(found.n.max()):,} test images for all. A cost counts only where 95%"
        " intervals of every pair do not overlap.",
        *unlearned(found),
        *([f"{bare} of {len(found.n)} networks were not evaluated at that ε."] * bool(bare)),
        f"Nearest two of {meta['trained_on']:,} training images of different classes:"
        f" {eps_text(meta['apart'])} apart in their largest pixel.",
        f"Right: PGD-AT on {len(blobs.y)} points, {blobs.meta['n']:,} new ones,"
        f" {blobs.meta['attack']} at each ε. The boundary is seed 0's.",
        f"The curves are means of {blobs.meta['seeds']} seeds. At the largest ε they are right on"
        f" {low} to {high} points.",
    ]


def _name(found: Family) -> str:
    return f"PGD-AT on {found.meta['data'].replace('_', ' ')}"


def _seeds(found: Family) -> str:
    """How many networks there are per training ε, as text such as `2 to 3 seeds`."""
    each = [int((found.eps == eps).sum()) for eps in np.unique(found.eps)]
    count = f"{min(each)}" if min(each) == max(each) else f"{min(each)} to {max(each)}"
    return f"{count} seed{'s' * (max(each) > 1)}"


def _level(eps: float) -> str:
    level = eps * 255
    return f"{round(level)}" if abs(level - round(level)) < 1e-3 else f"{eps:.3g}"


def _family(found: Family, width: int) -> str:
    """SVG chart of clean accuracy and accuracy under the usual attack by training ε, `width` pixels
    wide; below 400 pixels, the axis has fewer numbers.
    """
    radii = np.unique(found.eps)
    grey = all(_level(eps).isdecimal() for eps in radii)
    few = radii[(radii == 0) | (radii > radii.max() / 6)] if width < 400 else radii
    plot = Plot(
        width,
        315,
        (0, float(radii.max())),
        (0, 1),
        f"ε in training{', of 255' if grey else ''}",
        "test images right",
        [(eps, _level(eps)) for eps in few],
        SHARES,
        left=70,
        right=24,
        top=34 if width > 400 else 54,
    )
    where = 'dx="14"' if width > 400 else 'x="0" dy="20"'
    pale = f'<tspan {where} style="fill:var(--faint)">● learned nothing</tspan>'
    plot.parts.append(
        '<text y="14"><tspan>● untouched</tspan><tspan dx="14">○ attacked,'
        f" ε = {eps_text(found.meta['usual'])} (dashed)</tspan>"
        f"{pale * (not found.learned.all())}</text>"
    )
    plot.upright(found.meta["usual"])
    for counts, hollow in ((found.clean_k, False), (found.usual_k, True)):
        plot.line(*(each.tolist() for each in found.mean(counts)), dash=DASH if hollow else "")
        for eps, k, n, good in zip(found.eps, counts, found.n, found.learned, strict=True):
            if k >= 0:
                plot.dot(eps, k / n, "text" if good else "faint", radius=4, hollow=hollow)
    return plot.html()


def _plane(blobs: Balls) -> tuple[str, dict[str, tuple[str, list[str]]]]:
    """The SVG of points, squares and the first network's boundary.
    Also returns what the slider changes, in the form of `Screen.moves`.
    """
    low, high, down, up = blobs.meta["window"]
    shown = 0.85  # fraction of the window's height drawn: the largest squares are cut
    height = round(632 / (high - low) * shown * (up - down)) + 14
    plot = Plot(640, height, (low, high), (shown * down, shown * up), left=4, right=4, top=4)
    moves: dict[str, tuple[str, list[str]]] = {}
    over = np.asarray(blobs.nearest[None] < 2 * blobs.eps[:, None])
    for side, colour in enumerate(CLASSES):
        name = f"squares{side}"
        mine = blobs.y == side
        moves[name] = "d", [_squares(plot, blobs.x[mine], eps) for eps in blobs.eps]
        moves[f"{name}-over"] = (
            "d",
            [
                _squares(plot, blobs.x[mine & now], eps)
                for now, eps in zip(over, blobs.eps, strict=True)
            ],
        )
        plot.parts += [
            f'<path data-move="{name}" style="fill:{colour};opacity:.13"/>',
            f'<path data-move="{name}-over" fill="none" style="stroke:{colour};stroke-width:2"/>',
        ]
    moves["edge"] = "d", [" ".join(_edge(plot, blobs, at)) for at in range(len(blobs.eps))]
    plot.parts.append('<path data-move="edge" fill="none" stroke="var(--text)" stroke-width="3"/>')
    for (x, y), side in zip(blobs.x, blobs.y, strict=True):
        at = plot.px(float(x)), plot.py(float(y))
        plot.parts.append(
            f'<circle cx="{at[0]}" cy="{at[1]}" r="4" style="fill:{CLASSES[1]}"/>'
            if side
            else f'<path d="M{at[0]} {at[1] - 5}l5 9h-10z" style="fill:{CLASSES[0]}"/>'
        )
    size = f'viewBox="0 0 {plot.width} {plot.height}" width="{plot.width}"'
    return (
        f'<svg {size} style="overflow:hidden" aria-hidden="true">{"".join(plot.parts)}</svg>',
        moves,
    )


def _squares(plot: Plot, points: Floats, eps: float) -> str:
    """The SVG path of the squares of radius `eps` around points (P, 2); empty for radius 0."""
    if not eps:
        return ""
    side = plot.px(2 * eps) - plot.px(0)
    corners = [(plot.px(float(x - eps)), plot.py(float(y + eps))) for x, y in points]
    return "".join(f"M{x:.1f} {y:.1f}h{side:.1f}v{side:.1f}h{-side:.1f}z" for x, y in corners)


def _edge(plot: Plot, blobs: Balls, at: int) -> Iterator[str]:
    """Yields the SVG path segments of the line where the first network's logit is 0.
    There are one or two for each grid cell that the line crosses; `at` is the index of the radius.
    """
    z = blobs.logit[at].astype(float)
    low, high, down, up = blobs.meta["window"]
    rows, columns = z.shape
    across, along = np.linspace(low, high, columns), np.linspace(down, up, rows)
    positive = z > 0
    mixed = (
        positive[:-1, :-1].astype(int) + positive[1:, :-1] + positive[:-1, 1:] + positive[1:, 1:]
    ) % 4
    for row, column in np.argwhere(mixed):
        corners = [(row, column), (row, column + 1), (row + 1, column + 1), (row + 1, column)]
        ends = []
        for (r, c), (s, d) in zip(corners, [*corners[1:], corners[0]], strict=True):
            if positive[r, c] != positive[s, d]:
                part = z[r, c] / (z[r, c] - z[s, d])
                x = across[c] + part * (across[d] - across[c])
                y = along[r] + part * (along[s] - along[r])
                ends.append(f"{plot.px(x):.1f} {plot.py(y):.1f}")
        for start, stop in zip(ends[::2], ends[1::2], strict=True):
            yield f"M{start}L{stop}"


def _curve(blobs: Balls, width: int, prefix: str) -> tuple[str, dict[str, tuple[str, list[str]]]]:
    """The SVG chart of the mean share of test points right at each radius, clean and attacked.
    Also returns what the slider changes, in the form of `Screen.moves`; these names begin with
    `prefix`.
    """
    eps, n = [float(each) for each in blobs.eps], blobs.meta["n"]
    plot = Plot(
        width,
        140,
        (0, eps[-1]),
        (0.5, 1),
        "",
        "",
        [(each, f"{each:g}") for each in eps],
        SHARES[1:],
        right=24,
    )
    names: dict[str, Ints] = {"clean": blobs.clean_k, "held": blobs.held_k}
    moves: dict[str, tuple[str, list[str]]] = {}
    if blobs.first < len(eps):
        start = eps[blobs.first]
        plot.band([start, eps[-1]], [0.5, 0.5], [1, 1], "faint")
        plot.text(start, 0.5, "squares overlap", shift=(8, -8), more='class="told"')
    for name, counts in names.items():
        share, hollow, move = counts.mean(axis=1) / n, name == "held", prefix + name
        plot.line(eps, share, dash=DASH if hollow else "")
        plot.dot(0, float(share[0]), radius=7, hollow=hollow, move=move)
        moves[f"{move}-cx"] = "cx", [str(plot.px(each)) for each in eps]
        moves[f"{move}-cy"] = "cy", [str(plot.py(float(each))) for each in share]
        said = "attacked" if hollow else "untouched"  # left of the end, where the line is higher
        plot.text(eps[-1], share[-1], said, anchor="end", shift=(0, 20))
    return plot.html(), moves
