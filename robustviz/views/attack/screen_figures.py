"""The Attack page's first screen as HTML and SVG: one image untouched and attacked on A and B, the
added perturbation, and accuracy against ε. It needs neither torch nor Plotly, which load slowly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np

from robustviz import memory
from robustviz.stats import Floats
from robustviz.training.evaluation import Evaluation, attack_name, paired
from robustviz.types import UserError, eps_text
from robustviz.views import verdict
from robustviz.views.attack.result import AccuracyCurve, Answers, AttackLevels
from robustviz.views.drawing import Plot, tile, uri
from robustviz.views.pictures import delta, gain, png
from robustviz.views.screen import Control, Screen

SIZE, LARGE = 228, 300  # pixels: side of a picture, and of one that is shown alone
WIDE, SMALL = (1196, 170), (360, 230)  # pixels: width and height of the chart, also for phones
DASH = {"a": "", "b": "9 5"}
STYLE = """<style>
@container (min-width: 66rem) {
  .tiles.pair { flex-wrap: nowrap; }
  .pair figure { min-width: 0; }
}
@container (max-width: 34rem) {
  .pair figure { width: calc(50% - .4rem) !important; }
  .pair figure:first-child { margin-right: calc(50% - .4rem); }
}
.accuracy .small { display: none; }
@container (max-width: 48rem) {
  .accuracy .wide { display: none; }
  .accuracy .small { display: block; }
  .accuracy .small svg { width: 100%; max-width: 28rem; }
}
</style>"""


def screen(
    found: Mapping[str, AttackLevels],
    curves: Mapping[str, AccuracyCurve],
    said: verdict.Verdict | None,
    control: Control,
    at: int,
) -> Screen:
    """Returns the first screen for one or two networks. `found`: one image attacked on each, by the
    networks' names, which begin with A and B. `curves`: accuracy against ε, of the networks for
    which it is known. `said`: the verdict from the networks' evaluations, if there is one.
    `control`: the slider for ε; `at`: its position, an index. How the screen's answer follows from
    `curves` and `said` is described at `_answer`.
    """
    first = next(iter(found.values()))
    index, classes = first.meta["index"], first.meta["classes"]
    most = float(first.levels[-1] / 255)
    name = classes[first.y]
    untouched = " · ".join(f"{_side(who).upper()} {answer(each, 0)}" for who, each in found.items())
    tiles = [
        tile(
            _png(first.at(0).x),
            SIZE,
            f"Image {index}, a {name}",
            above="untouched",
            below=untouched,
        )
    ]
    moves: dict[str, tuple[str, Sequence[str]]] = {}
    for who, result in found.items():
        side, letter = _side(who), _side(who).upper()
        each = [result.at(position) for position in range(len(result.levels))]
        shown = [_png(one.x_adv) for one in each]
        added = [_png(delta(one.x, one.x_adv, most)) for one in each]
        answers = [answer(result, position) for position in range(len(each))]
        sizes = [f"largest change of a pixel: {round(255 * one.distance)}/255" for one in each]
        for key, pictures, words, title, alt in (
            (f"{side}-hit", shown, answers, f"{letter} attacked", f"The image attacked on {who}"),
            (
                f"{side}-add",
                added,
                sizes,
                f"perturbation for {letter}, magnified",
                f"The perturbation for {who}",
            ),
        ):
            tiles.append(
                tile(pictures[at], SIZE, alt, above=title, below=words[at], move=key, side=side)
            )
            moves |= {f"{key}-src": ("src", pictures), f"{key}-below": ("text", words)}
    chart, more = _chart(curves, first.levels, at)
    lines, sure = _answer(found, curves, said, at)
    return Screen(
        lines,
        f'{STYLE}<div class="tiles pair">{"".join(tiles)}</div>{chart}',
        f"Test image {index}, a {name}, untouched and attacked on {' and '.join(found)}, with"
        " the perturbation; below, the accuracy against ε.",
        (*sure, *_pictures(first)),
        control,
        moves | more,
    )


def untouched(who: str, found: AttackLevels) -> Screen:
    """Returns a screen with only the untouched image and the answer of one network, whose name
    `who` begins with A or B.
    """
    name, said = found.meta["classes"][found.y], int(found.answers[0])
    picture = tile(
        _png(found.at(0).x),
        LARGE,
        f"Image {found.meta['index']}, a {name}",
        above="untouched",
        below=f"{_side(who).upper()} {answer(found, 0)}",
    )
    return Screen(
        [f"{_side(who).upper()} predicts {found.meta['classes'][said]}."],
        f'<div class="tiles">{picture}</div>',
        f"Test image {found.meta['index']}, a {name}, untouched.",
        ("The percentage is the softmax output of the predicted class.",),
    )


def answer(result: AttackLevels, position: int) -> str:
    """Returns the text below the image attacked with the radius at index `position` in
    `result.levels`: the predicted class, its softmax output in percent, and ✓ or ✗ for right or
    wrong.
    """
    best = int(result.answers[position])
    share, sign = result.probs[position, best], "✓" if best == result.y else "✗"
    return f"{result.meta['classes'][best]}: {share:.0%} {sign}"


def measured(*sides: Sequence[Evaluation]) -> verdict.Verdict | None:
    """Returns the verdict on one network's evaluation, or on two networks' evaluations on the same
    images: on how many attacked images each is right, and which of two is better.

    `sides`: for each network its evaluations. One network: the first evaluation with a result for
    each image counts; two: the first pair of such evaluations with the same attack, ε, images and
    seed. Returns None if there is none.
    """
    for each in product(*sides):
        try:
            paired(each[0], each[-1])
        except UserError:
            continue
        first, rights = each[0], [one.right()[1] for one in each]
        found = verdict.held(*rights, attack=first.printed, eps=first.eps, seed=first.seed)
        line = f"At ε = {eps_text(first.eps)}: {found.line}"
        return verdict.Verdict(line, found.sure, found.winner)
    return None


def _answer(
    found: Mapping[str, AttackLevels],
    curves: Mapping[str, AccuracyCurve],
    said: verdict.Verdict | None,
    at: int,
) -> tuple[Sequence[str], tuple[str, ...]]:
    """Returns the screen's answer (one line for each level, or a single line), and sentences on how
    certain the line at the level with index `at` is.

    If all `curves` are `Answers`, there is a line for each level, unless a network in `found` has
    no curve while `said` exists. Otherwise the single line is that of `said` or, without `said`, a
    request to measure. Each line except the request also names the networks that have no curve yet.
    """
    known = [curve for curve in curves.values() if isinstance(curve, Answers)]
    lacking = [_side(who).upper() for who in found if who not in curves]
    are = f"{' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not measured yet"
    if known and len(known) == len(curves) and not (lacking and said):
        letters = (*(_side(who).upper() for who in curves), "")
        levels = next(iter(found.values())).levels
        each = [_held(known, letters[:2], float(level / 255)) for level in levels]
        more = f" {are}: see above." if lacking else ""
        return [one.line + more for one in each], each[at].sure
    if said:
        return [said.line + (f" At other ε, {are}: see above." if lacking else "")], said.sure
    return ["Above, measure on how many attacked images each network is right."], ()


def _held(known: Sequence[Answers], names: Sequence[str], eps: float) -> verdict.Verdict:
    """Returns the verdict on one or two networks at the measured radius nearest to `eps` (pixel
    units); if that radius differs from `eps`, the line says so. `names`: what the line calls the
    networks, such as `A` and `B`.
    """
    first = known[0]
    places = [one.nearest(eps) for one in known]
    near = float(first.eps[places[0]])
    found = verdict.held(
        *(one.right[place] for one, place in zip(known[:2], places, strict=False)),
        attack=attack_name(first.meta["attack"]),
        eps=near,
        seed=first.meta["seed"],
        names=(names[0], names[1]),
    )
    if abs(near - eps) < 1e-6:
        return found
    line = f"At the nearest ε measured, {round(255 * near)}/255: {found.line}"
    return verdict.Verdict(line, found.sure, found.winner)


def _pictures(first: AttackLevels) -> tuple[str, ...]:
    """Returns sentences that say how the pictures were made."""
    attack, most = first.meta["attack"], float(first.levels[-1] / 255)
    return (
        f"The pictures show test image {first.meta['index']}, attacked separately at each ε.",
        f"They come from {attack_name(attack)}, with a random start of seed {first.meta['seed']}.",
        f"The perturbation is shown multiplied by {gain(most):.2g} around grey, with the same"
        " factor at every ε.",
    )


def _chart(
    curves: Mapping[str, AccuracyCurve], levels: np.ndarray, at: int
) -> tuple[str, dict[str, tuple[str, Sequence[str]]]]:
    """Returns the chart of accuracy against ε with 95% bands, and the values that its moving parts
    take at each level (as in `Screen.moves`). The chart is HTML with two SVGs, a wide one and one
    for phones, of which the browser shows the one that fits. Without curves: "" and {}.
    """
    if not curves:
        return "", {}
    moves: dict[str, tuple[str, Sequence[str]]] = {}
    wide = _plot(curves, levels, at, WIDE, moves)
    small = _plot(curves, levels, at, SMALL, moves)
    return (
        f'<div class="accuracy"><div class="wide">{wide}</div><div class="small">{small}</div>'
        "</div>",
        moves,
    )


def _plot(
    curves: Mapping[str, AccuracyCurve],
    levels: np.ndarray,
    at: int,
    size: tuple[int, int],
    moves: dict[str, tuple[str, Sequence[str]]],
) -> str:
    """Returns the chart as SVG of `size` (width, height), and adds to `moves` the values that its
    moving parts take at each level. The chart of size `SMALL` has fewer ticks, and the networks'
    names stand above the plot instead of in it. `at`: the index of the initial level.
    """
    key, count, head, first = (
        ("small-", 4, 20 * len(curves), 2 - 20 * len(curves)) if size == SMALL else ("", 8, 0, 14)
    )
    ticks = levels[:: max(1, len(levels) // count)]
    plot = Plot(
        *size,
        (0, int(levels[-1])),
        (0, 1),
        "ε in grey levels of 255",
        "accuracy",
        [(int(level), str(level)) for level in ticks],
        [(0, "0"), (0.5, "50%"), (1, "100%")],
        left=70,
        top=12 + head,
    )
    shift = [f"translate({plot.px(int(level)) - plot.px(0):.1f} 0)" for level in levels]
    plot.upright(0, move=f"{key}here", more=f'transform="{shift[at]}"')
    moves[f"{key}here-x"] = ("transform", shift)
    for place, (who, curve) in enumerate(curves.items()):
        side, x, share = _side(who), list(curve.eps * 255), list(curve.accuracy)
        near = [int(np.abs(np.array(x) - level).argmin()) for level in levels]
        plot.band(x, list(curve.interval[:, 0]), list(curve.interval[:, 1]), side)
        plot.line(x, share, side, dash=DASH[side])
        plot.dot(x[near[at]], share[near[at]], side, radius=7, hollow=True, move=f"{key}{side}")
        plot.text(int(levels[-1]), 1, who, side, anchor="end", shift=(0, first + 20 * place))
        moves[f"{key}{side}-cx"] = ("cx", [f"{plot.px(x[k])}" for k in near])
        moves[f"{key}{side}-cy"] = ("cy", [f"{plot.py(share[k])}" for k in near])
    return plot.html(f"Accuracy on the test images against ε, {' and '.join(curves)}.")


def _side(name: str) -> str:
    return name[:1].lower()


def _png(x: Floats) -> str:
    return _packed(np.ascontiguousarray(x, dtype=np.float32).tobytes(), x.shape)


@memory.remembered(memory.ANSWERS)
def _packed(content: bytes, shape: tuple[int, ...]) -> str:
    x = np.frombuffer(content, dtype=np.float32).reshape(shape)
    return uri(png(x, max(shape[1:])))
