"""The film of feature space as a `Screen`: a slider in the browser goes through the epochs whose
weights at least one of the networks stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape

import numpy as np

from robustviz.stats import Floats, Ints
from robustviz.training.evaluation import attack_name
from robustviz.types import eps_text
from robustviz.views.features.result import FeatureFilm
from robustviz.views.features.screen import EDGE, HIGH, STYLE, WIDE, looks
from robustviz.views.screen import Control, Screen
from robustviz.views.theme import LIGHT, sides

Moves = dict[str, tuple[str, Sequence[str]]]


def film(films: Mapping[str, FeatureFilm], template: str = LIGHT) -> Screen:
    """A screen with the clean ● and attacked × points of one or two networks (`films`, by name) at
    each epoch whose weights any of them stored. Where a network did not store an epoch's weights,
    its map shows its last stored epoch before that, with the number above the map; if there is
    none, the map is empty. The × of misclassified images have the colour of text.
    """
    epochs = sorted({int(epoch) for result in films.values() for epoch in result.epochs})
    moves: Moves = {}
    parts: list[str] = []
    for (name, result), side in zip(films.items(), sides(films), strict=True):
        parts.extend(_map(name, side, result, _frames(result, epochs), moves, template))
    first = next(iter(films.values()))
    meta = first.meta
    umap = meta.get("projection") == "umap"
    return Screen(
        answer=[_sentence(films, epoch) for epoch in epochs],
        picture=f'{STYLE}<div class="maps">{"".join(parts)}</div>',
        alt="Maps of clean and attacked images, one for each epoch whose weights were kept.",
        sure=[
            "UMAP from the last epoch backwards: axes and gaps between groups have no meaning."
            if umap
            else "All epochs lie on the plane of the last epoch's class centres.",
            "At each epoch that epoch's own network is attacked.",
            f"{attack_name(meta['attack'])} at ε = {eps_text(float(meta['eps']))}.",
            f"n = {len(first.y)} test images, noise of seed {meta['seed']}.",
        ],
        control=Control("Epoch", [str(epoch) for epoch in epochs], len(epochs) - 1, "map-epoch"),
        moves=moves,
    )


def _frames(result: FeatureFilm, epochs: Sequence[int]) -> Ints:
    """For each of `epochs`, the index in `result.epochs` of the last stored epoch that is not after
    it, or -1 if there is none.
    """
    return np.asarray(np.searchsorted(result.epochs, epochs, side="right") - 1)


def _sentence(films: Mapping[str, FeatureFilm], epoch: int) -> str:
    """In words: how many attacked images each network with stored weights of this `epoch`
    classifies correctly, followed by a sentence for each other network, which is displayed at an
    earlier epoch or not at all.
    """
    counts, apart = [], []
    for result, side in zip(films.values(), sides(films), strict=True):
        at, letter = int(_frames(result, [epoch])[0]), side.upper()
        if at < 0:
            apart.append(f" {letter} kept no weights up to this epoch.")
            continue
        right = f"{int((result.pred_adv[at] == result.y).sum())} of {len(result.y)}"
        if result.epochs[at] == epoch:
            counts.append(f"{letter}: {right}")
        else:
            apart.append(f" {letter} at its epoch {result.epochs[at]}: {right}.")
    here = f"Epoch {epoch}, attacked images classified correctly: {', '.join(counts)}."
    return here + "".join(apart)


def _map(
    name: str, side: str, result: FeatureFilm, at: Ints, moves: Moves, template: str
) -> Iterator[str]:
    clean, attacked = (_pixels(result, points) for points in (result.clean, result.adversarial))
    wrong = result.pred_adv != result.y
    frames = range(len(result.epochs))

    def moving(key: str, each: Sequence[str], rest: str) -> str:
        moves[f"{key}-{side}"] = ("d", [each[frame] if frame >= 0 else "" for frame in at])
        return f'<path data-move="{key}-{side}" d="" {rest}/>'

    moves[f"when-{side}"] = (
        "text",
        [f"epoch {result.epochs[frame]}" if frame >= 0 else "no weights kept yet" for frame in at],
    )
    yield (
        f'<div class="map"><p class="head"><b class="{side}">{escape(name)}</b>'
        f'<span class="faint" data-move="when-{side}"></span></p>'
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="Film of {escape(name)}">'
    )
    ways = [
        "".join(
            f"M{a[0]:.0f} {a[1]:.0f}L{b[0]:.0f} {b[1]:.0f}"
            for a, b in zip(clean[frame], attacked[frame], strict=True)
        )
        for frame in frames
    ]
    yield moving("ways", ways, 'stroke="var(--faint)" stroke-opacity=".35" fill="none"')
    cross = "m-4-4l8 8m-8 0l8-8"
    colours = looks(result.y, result.pred_adv[-1], result.meta, template)
    groups = [(str(label), shade, result.y == label) for label, (shade, _) in colours.items()]
    others = ~np.isin(result.y, list(colours))
    groups += [("-others", "var(--faint)", others)] * bool(others.any())
    for label, shade, mine in groups:
        dots = [_marks(clean[frame][mine], "h0") for frame in frames]
        held = [_marks(attacked[frame][mine & ~wrong[frame]], cross) for frame in frames]
        line = f'stroke="{shade}" fill="none" stroke-linecap="round"'
        yield moving(f"dots{label}", dots, f'{line} stroke-width="8"')
        yield moving(f"held{label}", held, f'{line} stroke-width="2.2"')
    lost = [_marks(attacked[frame][wrong[frame]], cross) for frame in frames]
    yield moving("lost", lost, 'stroke="var(--text)" fill="none" stroke-width="2.2"')
    for label in np.unique(result.y):
        middles = [np.median(clean[frame][result.y == label], axis=0) for frame in frames]
        key = f"name{label}-{side}"
        places = [f"translate({x:.0f} {y:.0f})" for x, y in middles]
        # without weights there is no map, and the name is moved out of sight
        moves[key] = (
            "transform",
            [places[frame] if frame >= 0 else f"translate(0 {-HIGH})" for frame in at],
        )
        yield (
            f'<text data-move="{key}" text-anchor="middle">'
            f"{escape(result.meta['classes'][label])}</text>"
        )
    yield "</svg></div>"


def _marks(points: Floats, shape: str) -> str:
    return "".join(f"M{x:.0f} {y:.0f}{shape}" for x, y in points)


def _pixels(result: FeatureFilm, points: Floats) -> Floats:
    """Points (E,n,2) in pixels of the drawing, on axes that are the same in all frames."""
    every = np.concatenate([result.clean, result.adversarial]).reshape(-1, 2).astype(float)
    low, extent = every.min(axis=0), np.maximum(np.ptp(every, axis=0), 1e-9)
    at = (points - low) / extent
    at[..., 1] = 1 - at[..., 1]
    return np.asarray(EDGE + at * (np.array([WIDE, HIGH]) - 2 * EDGE))
