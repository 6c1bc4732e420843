"""Figures about misaligned classes: how far an attack moves each class, whether misalignment
predicts which images are fooled, at which stage the attack shows, distances of pairs of features,
cosines of class centres, and alignment and uniformity over the epochs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Floats, finite_or_none
from robustviz.types import eps_text
from robustviz.views.features.result import Features, Images
from robustviz.views.misalignment.result import Misalignment, Pairs, Stages, Uniformity
from robustviz.views.theme import COLOURS, DASHES, LIGHT, band, blank, finish, named, sides

MOST = 10  # at most this many classes are drawn at once; more are hard to tell apart
# the markers for attacked, noise, boundary
SYMBOLS = {"a": ("x-thin", "circle-open", "line-ns"), "b": ("x-open", "circle-open-dot", "line-ne")}
KINDS: dict[Images, str] = {"clean": "clean", "adversarial": "attacked", "noise": "noisy"}
CONFUSERS = 5  # at most this many classes are drawn beside `focus` where there are more than `MOST`


def shown_classes(result: Misalignment, focus: str = "") -> list[int]:
    """Returns the indices of the classes to draw. If at most `MOST` classes have images, these are
    all of them, the least robust first.

    Otherwise these are the `MOST` least robust ones; or, if `focus` names a class, that class and
    then at most `CONFUSERS` others: the class with the nearest centre, those that its attacked
    images are most often classified as, and that with the nearest boundary.
    """
    names, order = list(result.meta["classes"]), [c for c in result.order if result.n[c] > 0]
    if len(order) <= MOST or focus not in names:
        return order[:MOST]
    c = names.index(focus)
    near = [
        int(result.nearest[c]),  # the class with the nearest centre
        *(k for k, _ in result.lands(c, CONFUSERS + 1)),
        int(result.boundary_class[c]),
    ]
    return [c, *[k for k in dict.fromkeys(near) if k not in (c, -1)][:CONFUSERS]]


def misalignment(
    results: Misalignment | Mapping[str, Misalignment], *, focus: str = "", template: str = LIGHT
) -> go.Figure:
    """Draw how far the attack (×) and noise (○) move images in feature space, in a row for each
    class of `shown_classes`; one or two networks.

    A movement is measured along the line from the centre of the image's own class to the wrong
    centre nearest to the moved image: 0 is no movement, 1 the whole line. A | marks where the
    head's prediction changes on the lines of attacked images. All are means over a class. `focus`:
    the name of a class; the others are drawn grey.
    """
    networks = named(results)
    first = next(iter(networks.values()))
    names, shown = list(first.meta["classes"]), shown_classes(first, focus)
    rows, ink = [names[c] for c in shown], COLOURS[template]
    figure = blank(
        template,
        "How far an attack moves each class",
        "0: own centre, 1: the wrong centre nearest to each image",
        height=34 * len(shown) + 190,
        margin={"b": 84 + 20 * len(networks)},
        xaxis={"title": "share of the way", "zeroline": True},
        yaxis={"autorange": "reversed", "type": "category", "tickmode": "linear"},
    )
    for (name, result), side in zip(networks.items(), sides(networks), strict=True):
        colours = [ink[side] if not focus or row == focus else ink["faint"] for row in rows]
        for what, values, symbol in zip(
            ("attacked", "noise", "boundary"),
            (result.along, result.along_noise, result.boundary_met),
            SYMBOLS[side],
            strict=True,
        ):
            figure.add_scatter(
                x=[finite_or_none(values[c]) for c in shown],
                y=rows,
                mode="markers",
                name=f"{name}: {what}",
                customdata=[
                    ", ".join(f"{names[k]} ({count})" for k, count in result.ends(c)) or "none"
                    for c in shown
                ],
                marker={
                    "symbol": symbol,
                    "size": 13,
                    "color": colours,
                    "line": {"width": 2.5, "color": colours},
                },
                hovertemplate=(
                    f"%{{y}} → %{{customdata}}: %{{x:.2f}}<extra>{name}, {what}</extra>"
                ),
            )
    return finish(
        figure,
        "Movement under attack towards the wrong centre nearest to each image, one row per class.",
        networks,
        " ".join(f"{name}: {_cause(result, focus)}" for name, result in networks.items()),
        f"{first.meta['printed']}. Measured on {len(first.y)} images, seed {first.meta['seed']}."
        " Each image's movement is measured towards the wrong centre that is nearest to its"
        " attacked position, and a mark is the mean over a class.",
    )


def _cause(result: Misalignment, focus: str) -> str:
    names = list(result.meta["classes"])
    if focus in names:
        c = names.index(focus)
        return f"{focus}: {result.kind[c]}: {result.sentence[c]}"
    c = result.order[0]
    level = (result.n > 0) & (result.robust_k * result.n[c] == result.robust_k[c] * result.n)
    return (
        f"{causes(result)} {names[c]} is right least often"
        + (f", like {level.sum() - 1} more" if level.sum() > 1 else "")
        + f". {result.kind[c]}: {result.sentence[c]}"
    )


def causes(result: Misalignment) -> str:
    """Returns how many classes have which cause, the most frequent first, in words: `Pushed by the
    attack: 7 classes; holds: 3 classes.`
    """
    return (
        "; ".join(
            f"{kind if at == 0 else kind.lower()}: {count} class{'es' * (count > 1)}"
            for at, (kind, count) in enumerate(Counter(result.kind).most_common())
        )
        + "."
    )


def misalignment_auc(
    results: Misalignment | Mapping[str, Misalignment], *, template: str = LIGHT
) -> go.Figure:
    """Draw the ROC curve of misalignment as a predictor of which images the attack fools, for one
    or two networks.

    Only images that are right untouched count. Their score is `Misalignment.misaligned`: the cosine
    of the untouched features to the nearest other class's centre minus that to their own. A network
    has no curve if all of these images are fooled, or none.
    """
    networks, colour = named(results), COLOURS[template]
    figure = blank(
        template,
        "Does misalignment predict which images are fooled?",
        "images right untouched, most misaligned first",
        xaxis={
            "title": "share of those that were not fooled",
            "range": [0, 1],
            "tickformat": ".0%",
        },
        yaxis={"title": "share of the fooled", "range": [0, 1.02], "tickformat": ".0%"},
    )
    figure.add_scatter(
        x=[0, 1],
        y=[0, 1],
        mode="lines",
        name="chance",
        line={"color": colour["faint"], "dash": "dot"},
        hoverinfo="skip",
    )
    for (name, result), side in zip(networks.items(), sides(networks), strict=True):
        if not math.isnan(result.auc[0]):
            figure.add_scatter(
                **_roc(result),
                mode="lines",
                name=name,
                line={"color": colour[side], "dash": DASHES[side], "width": 3, "shape": "hv"},
                hovertemplate=(
                    f"%{{y:.0%}} of the fooled, %{{x:.0%}} of the others<extra>{name}</extra>"
                ),
            )
    return finish(
        figure,
        "ROC curve of feature misalignment against being fooled.",
        networks,
        " ".join(f"{name}: {_foretold(result)}" for name, result in networks.items()),
        " ".join(filter(None, (_area(name, result) for name, result in networks.items()))),
    )


def _foretold(result: Misalignment) -> str:
    """Returns a text: the AUC, and whether it differs from chance; or why there is no AUC."""
    area, low, high, fooled, held = result.auc
    if math.isnan(area):
        return (
            "no image that is right untouched was fooled"
            if held
            else "all images right untouched were fooled"
            if fooled
            else "no image is right untouched"
        ) + ", so there is nothing to predict."
    return f"AUC {area:.2f}, " + (
        "better than chance."
        if low > 0.5
        else "worse than chance."
        if high < 0.5
        else "not significantly different from chance."
    )


def _area(name: str, result: Misalignment) -> str:
    """Returns a text with the AUC, its interval, and how many images were fooled and how many not;
    "" if there is no AUC.
    """
    area, low, high, fooled, held = result.auc
    return (
        ""
        if math.isnan(area)
        else f"{name}: AUC {area:.2f} [{low:.2f}, {high:.2f}], {fooled} fooled, {held} not,"
        f" {result.meta['printed']}."
    )


def _roc(result: Misalignment) -> dict[str, Floats]:
    """Returns the points of the ROC curve: false positive rates `x` and true positive rates `y`,
    from (0, 0) to (1, 1), with a point for each distinct value of `misaligned`.
    """
    score, fooled = result.misaligned[result.right], result.fooled[result.right]
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)
    true, false = np.cumsum(fooled[order])[last], np.cumsum(~fooled[order])[last]
    return {"x": np.append(0, false / false[-1]), "y": np.append(0, true / true[-1])}


def stages(results: Stages | Mapping[str, Stages], *, template: str = LIGHT) -> go.Figure:
    """Draw the mean cosine between the outputs for clean and attacked images after each stage, with
    a band for the middle half of the images, and between clean and noisy ones (thin, dotted).
    """
    networks = named(results)
    first = next(iter(networks.values()))
    alike = len({tuple(result.names) for result in networks.values()}) == 1
    figure = blank(
        template,
        "At which stage does the attack show?",
        f"clean and attacked alike: 1; {first.adversarial.shape[1]} images",
        xaxis={"type": "category", "title": "" if alike else "stage (the networks differ)"},
        yaxis={"title": "cosine, mean over images"},
    )
    for (name, result), side in zip(networks.items(), sides(networks), strict=True):
        colour = COLOURS[template][side]
        x = result.names if alike else [f"{at}" for at in range(len(result.names))]
        low, high = np.quantile(result.adversarial, [0.25, 0.75], axis=1)
        band(figure, x, low, high, colour)
        figure.add_scatter(
            x=x,
            y=result.adversarial.mean(axis=1),
            mode="lines+markers",
            name=f"{name}: attacked",
            customdata=result.names,
            line={"color": colour, "dash": DASHES[side], "width": 3},
            marker={"size": 9, "symbol": "x"},
            hovertemplate=f"%{{customdata}}: %{{y:.3f}}<extra>{name}</extra>",
        )
        figure.add_scatter(
            x=x,
            y=result.noise.mean(axis=1),
            mode="lines+markers",
            name=f"{name}: noise",
            customdata=result.names,
            line={"color": colour, "dash": "dot", "width": 1.5},
            marker={"size": 7, "symbol": "circle-open"},
            hovertemplate=f"%{{customdata}}, noise: %{{y:.3f}}<extra>{name}</extra>",
        )
    return finish(
        figure,
        "Cosine of clean and attacked images, stage by stage.",
        networks,
        " ".join(f"{name}: {_fall(result)}" for name, result in networks.items()),
        f"PGD-{first.meta['attack']['steps']} at ε = {eps_text(float(first.meta['eps']))}. The band"
        f" is the middle half of {first.noise.shape[1]} images.",
        interval="bands: the middle half of the images",
    )


def _fall(result: Stages) -> str:
    """Returns a text: where the mean cosine falls most, and its values at features and logits."""
    mean, noise = result.adversarial.mean(axis=1), result.noise.mean(axis=1)
    falls = mean[:-2] - mean[1:-1]  # without the logits, which are on another scale
    at = int(falls.argmax())
    return (
        "up to the features "
        + (
            f"the greatest fall is at {result.names[at + 1]}, from {mean[at]:.2f} to"
            f" {mean[at + 1]:.2f}"
            if falls[at] > 0
            else "the cosine falls at no stage"
        )
        + f". Cosine at the features {mean[-2]:.2f} (with noise {noise[-2]:.2f}), at the"
        f" logits {mean[-1]:.2f}."
    )


def pairs(result: Pairs, *, side: str = "a", template: str = LIGHT) -> go.Figure:
    """Draw histograms of the feature distances of image pairs, of one class (filled) and of two
    classes (outlined), in the colour of `side` (`a` or `b`). A line marks the margin, if any.
    """
    colour = COLOURS[template]
    figure = blank(
        template,
        "Distances of pairs",
        f"{result.meta['n']} {KINDS[result.meta['images']]} images, features at length 1",
        barmode="overlay",
        bargap=0.05,
        xaxis={"title": "distance (0: one direction, 2: opposite)", "range": [0, 2]},
        yaxis={"title": "share of the pairs", "tickformat": ".0%"},
    )
    middle = (result.edges[:-1] + result.edges[1:]) / 2
    for name, counts, fill in (
        ("same class", result.same, colour[side]),
        ("two classes", result.different, "rgba(0,0,0,0)"),
    ):
        figure.add_bar(
            x=middle,
            y=counts / max(counts.sum(), 1),
            name=name,
            marker={"color": fill, "line": {"color": colour[side], "width": 1.5}},
            customdata=counts,
            hovertemplate=f"%{{x:.2f}}: %{{y:.1%}}, %{{customdata}} pairs<extra>{name}</extra>",
        )
    within, between = (
        f"{far:.2f}" if math.isfinite(far) else "(none)"
        for far in (result.meta["within"], result.meta["between"])
    )
    margin = "No margin was trained."
    if result.margin is not None:
        figure.add_vline(
            x=result.margin,
            line={"color": colour["text"], "dash": "dash"},
            annotation_text=f"margin m = {result.margin:g}",
            annotation_position="top right",
        )
        inside = result.different[middle < result.margin].sum() / max(
            int(result.different.sum()), 1
        )
        margin = (
            f"{inside:.0%} of the latter lie within m = {result.margin:g}. It was trained on "
            + (
                "these features."
                if result.meta.get("projected")
                else "a projection of these features, which was not kept."
            )
        )
    return finish(
        figure,
        "Histogram of feature distances within and between classes.",
        result,
        f"Pairs of one class are {within} apart on average, pairs of two classes {between}."
        f" {margin}",
        f"{result.meta['n']} {KINDS[result.meta['images']]} images, all their pairs, features at"
        " length 1.",
        clean=result.meta["images"] == "clean",
    )


def centre_cosines(
    result: Features,
    *,
    images: Images = "adversarial",
    change: bool = False,
    classes: Sequence[str] = (),
    template: str = LIGHT,
) -> go.Figure:
    """Draw a heat map of the cosines between the clean class centres (rows) and the class centres
    of the images of kind `images` (columns).

    `change`: draw instead by how much these cosines differ from those among the clean centres.
    `classes`: the names of the classes to draw, in this order; all by default.
    """
    every, kind = list(result.meta["classes"]), KINDS[images]
    names = list(classes) or every
    keep = [every.index(name) for name in names]
    matrix = {
        "clean": result.centres_clean,
        "adversarial": result.centres_adv,
        "noise": result.centres_noise,
    }[images]
    part = (matrix - result.centres_clean if change else matrix)[np.ix_(keep, keep)]
    figure = blank(
        template,
        f"Clean centres and {kind} centres" + (", change" if change else ""),
        f"cosine, n = {len(result.y)}",
        height=460,
        xaxis={"title": f"{kind} centre of", "type": "category", "tickmode": "linear"},
        yaxis={
            "title": "clean centre of",
            "autorange": "reversed",
            "type": "category",
            "tickmode": "linear",
        },
    )
    known = part[np.isfinite(part)]
    most = float(np.abs(known).max()) if len(known) else 1.0
    # After a ReLU no cosine is negative; other features may have negative ones.
    figure.add_heatmap(
        z=part,
        x=names,
        y=names,
        **(
            {"colorscale": "RdBu", "zmid": 0, "zmin": -most or -1, "zmax": most or 1}
            if change
            else {"colorscale": "Cividis", "zmin": float(known.min(initial=0.0)), "zmax": 1}
        ),
        texttemplate="%{z:.2f}" if len(keep) <= MOST else "",
        hovertemplate="clean %{y}, " + kind + " %{x}: %{z:.2f}<extra></extra>",
        colorbar={"thickness": 12},
    )
    return finish(
        figure,
        "Heat map of cosines of class centres.",
        result,
        _strayed(matrix, every, kind),
        clean=images == "clean",
    )


def _strayed(matrix: np.ndarray, names: list[str], kind: str) -> str:
    there = np.isfinite(np.diag(matrix))
    count = int(there.sum())
    if count < 2:
        return "There are images of fewer than two classes."
    off = np.where(np.eye(len(matrix), dtype=bool) | ~np.isfinite(matrix), -np.inf, matrix)
    nearest = off.argmax(axis=0)  # for each centre, the nearest clean one of another class
    lead = np.where(there, off.max(axis=0) - np.diag(matrix), -np.inf)
    strayed, worst = int((lead > 0).sum()), int(lead.argmax())
    return (
        f"{strayed or 'None'} of {count} {kind} centres {'is' if strayed == 1 else 'are'} nearer"
        f" to another class's clean centre. Least aligned is {names[worst]}:"
        f" {matrix[worst, worst]:.2f} to its own, {off[nearest[worst], worst]:.2f} to"
        f" {names[nearest[worst]]}."
    )


def uniformity(
    results: Uniformity | Mapping[str, Uniformity], *, template: str = LIGHT
) -> go.Figure:
    """Draw alignment against uniformity of clean features: a point for each epoch whose weights
    were stored, and a large filled point for the best network; one or two networks.
    """
    networks = named(results)
    first = next(iter(networks.values()))
    figure = blank(
        template,
        "Alignment and uniformity over epochs",
        f"{first.meta['n']} clean test images; best is the lower left",
        xaxis={"title": "uniformity (lower: more evenly spread)"},
        yaxis={"title": "alignment (0: tight)", "rangemode": "tozero"},
    )
    for (name, result), side in zip(networks.items(), sides(networks), strict=True):
        colour, kept = COLOURS[template][side], result.epoch >= 0
        labels = [f"epoch {epoch}" for epoch in result.epoch[kept]]
        figure.add_scatter(
            x=result.uniformity[kept],
            y=result.alignment[kept],
            mode="lines+markers+text",
            name=f"{name}: epochs",
            showlegend=bool(labels),
            cliponaxis=False,
            text=[label if at in (0, len(labels) - 1) else "" for at, label in enumerate(labels)],
            textposition="top center",
            line={"color": colour, "dash": DASHES[side], "width": 2},
            marker={"size": 8, "symbol": "circle-open"},
            customdata=np.array(labels),
            hovertemplate=(
                f"%{{customdata}}: alignment %{{y:.2f}}, uniformity %{{x:.2f}}<extra>{name}</extra>"
            ),
        )
        figure.add_scatter(
            x=result.uniformity[~kept],
            y=result.alignment[~kept],
            mode="markers",
            name=f"{name}: best network",
            marker={"size": 15, "color": colour, "symbol": "circle" if side == "a" else "diamond"},
            hovertemplate=(
                f"best: alignment %{{y:.2f}}, uniformity %{{x:.2f}}<extra>{name}</extra>"
            ),
        )
    return finish(
        figure,
        "Alignment against uniformity.",
        networks,
        " ".join(f"{name}: {_spread(result)}" for name, result in networks.items()),
    )


def _spread(result: Uniformity) -> str:
    """Returns a text: alignment and uniformity of the best network, and at the first epoch whose
    weights were stored.
    """
    return f"alignment {result.alignment[-1]:.2f}, uniformity {result.uniformity[-1]:.2f}. " + (
        f"At epoch {result.epoch[0]} {result.alignment[0]:.2f} and {result.uniformity[0]:.2f}."
        if len(result.epoch) > 1
        else "This run kept no weights of earlier epochs, so there is one point. Train with"
        " snapshots=2 to see several."
    )
