"""Figures of the Contributions page: how many features make up a logit, what guided dropout drops,
and which pairs logit pairing pulls together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import Bools, Floats, mean_interval, t_quantile
from robustviz.types import eps_text
from robustviz.views.contributions.result import Contributions, Pairing
from robustviz.views.theme import COLOURS, DASHES, LIGHT, band, blank, clear, finish, named, styles

FEW = 10  # with fewer images there is no verdict
FLOOR = 1e-3  # smaller losses are drawn at this value on the logarithmic axes
CORNER = math.log(2)  # with a higher cross-entropy the true class's output is below one half
WEIGHTS = {
    "adversarial": "w = p(y|x')",
    "clean": "w = p(y|x)",
    "loss": "w = 1/(1 + CE(x'))",
    "ones": "w = 1",
}
OVER_PAIRED = (
    "Over-paired: the attacked image's cross-entropy is above ln 2, so its true class has less than"
    " 50%. And its pairing loss is above this network's median,"
)
DROPPED = {
    "low": "the top {always} of {width}{by} are always kept",
    "top": "as a control the lowest {rest} of {width}{by} are always kept",
    "random": "as a control any of the {width} may be dropped",
}


def contributions(
    results: Contributions | Mapping[str, Contributions], *, template: str = LIGHT
) -> go.Figure:
    """Line chart: the share of the positive contributions that the k largest features make up.

    The x axis is k in % of all features. The curves are for one image or the mean of many, for any
    number of networks; a ring marks where half is reached. With many images, A and B have 95%
    bands of the mean (t), and images without a positive contribution are left out.
    """
    found = named(results)
    first = next(iter(found.values()))
    figure = blank(
        template,
        "How many features an answer rests on",
        f"image {first.index[0]}, {first.class_name}"
        if len(first.y) == 1
        else f"mean of {len(first.y)} untouched images",
        height=440,
        yaxis={
            "title": "share of the positive contributions",
            "range": [0, 1.02],
            "tickformat": ".0%",
        },
    )
    reach = 10.0  # the axis ends where the last curve reaches 99%
    for (name, result), (own, dash) in zip(found.items(), styles(found), strict=False):
        shares = result.shares[np.isfinite(result.half)]
        if len(shares):
            look = {"color": COLOURS[template][own], "dash": dash}
            paper = COLOURS[template]["paper"]
            reach = max(reach, _curve(figure, name, shares, look, own in ("a", "b"), paper))
    figure.add_hline(y=0.5, line={"color": COLOURS[template]["faint"], "dash": "dot", "width": 1})
    return finish(
        figure.update_xaxes(title="largest features (% of all)", range=[0, reach]),
        "Cumulative share of the positive contributions against the number of features.",
        found,
        _carried(found),
        "A contribution is a feature times its weight for the true class; negative ones are left"
        f" out. {_by_slope(found)}Bands are 95% intervals of the mean. {_effective(found)}"
        " Differences are on the same images, with 95% intervals in brackets. Each curve is one"
        " network; other seeds of a method may differ.",
        interval="bands: 95% intervals over images (Student's t)" * (len(first.y) > 1),
    )


def _effective(found: Mapping[str, Contributions]) -> str:
    """Returns a sentence per network: the effective number of features, mean over images."""
    return " ".join(
        f"Effective number of features in {name}: {np.nanmean(result.effective):.1f}."
        for name, result in found.items()
        if np.isfinite(result.effective).any()
    )


def _curve(
    figure: go.Figure, name: str, shares: Floats, look: dict[str, str], shaded: bool, paper: str
) -> float:
    """Draw the mean of `shares` (n,D+1), a ring where it reaches half, and with `shaded` its 95%
    band. Returns where the mean reaches 99%, in % of the features.
    """
    count = shares.shape[1]
    x, mean = 100 * np.arange(count) / (count - 1), shares.mean(axis=0)
    at = int((mean >= 0.5).argmax())
    if len(shares) > 1 and shaded:
        half = t_quantile(len(shares) - 1) * shares.std(axis=0, ddof=1) / math.sqrt(len(shares))
        band(figure, x, (mean - half).clip(0, 1), (mean + half).clip(0, 1), look["color"])
    figure.add_scatter(
        x=x,
        y=mean,
        mode="lines",
        name=name,
        line={**look, "width": 3},
        customdata=np.arange(count),
        hovertemplate="%{customdata} features: %{y:.0%}<extra>" + name + "</extra>",
    ).add_scatter(
        x=[x[at]],
        y=[mean[at]],
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        name=f"{name}, half",
        marker={"size": 11, "color": paper, "line": {"color": look["color"], "width": 3}},
    )
    return float(x[int((mean >= 0.99).argmax())])


def _carried(found: Mapping[str, Contributions]) -> str:
    """Returns a text: how many features hold half of the positive contributions in each network,
    and for many images whether the curves of defended networks rise earlier.
    """
    first, said, lacking = next(iter(found.values())), [], 0
    alone = len(first.y) == 1
    for name, result in found.items():
        there = np.isfinite(result.half)
        lacking = max(lacking, int((~there).sum()))
        said.append(
            f"{name}: {result.half[there].mean():.{0 if alone else 1}f} of"
            f" {result.parts.shape[1]} features."
            if there.any()
            else f"{name}: no feature contributes positively to the class."
        )
    what = (
        f"Number of features with half of the positive contributions to {first.class_name} on"
        f" image {first.index[0]}."
        if alone
        else "Number of features with half of the positive contributions to the true class, mean"
        f" of {len(first.y)} images."
    )
    left_out = f"Left out: {lacking} images without a positive contribution." if lacking else ""
    rest = [] if alone else [left_out, _risen(found)]
    return " ".join(filter(None, [what, *said, *rest]))


def _risen(found: Mapping[str, Contributions]) -> str:
    """Returns a text on whether the curves of defended networks rise earlier than that of the first
    standard network, on the same images (observation 1 of Wu et al.).
    """
    usual = [name for name, result in found.items() if result.meta["method"] == "standard"]
    robust = {name: each for name, each in found.items() if each.meta.get("group") == "defence"}
    if not usual or not robust:
        return (
            "To compare curves of defended networks, an ordinary and a defended network are needed."
        )
    said, theirs, earlier = list[str](), found[usual[0]], list[bool]()
    for name, ours in robust.items():
        if not np.array_equal(ours.index, theirs.index):
            continue
        moved = 100 * (ours.half / ours.parts.shape[1] - theirs.half / theirs.parts.shape[1])
        moved = moved[np.isfinite(moved)]
        if len(moved) < FEW:
            return f"Fewer than {FEW} images say nothing about whose curve rises earlier."
        mean, low, high = mean_interval(moved)
        word = "earlier" if high < 0 else "later" if low > 0 else ""
        earlier.append(high < 0)
        said.append(
            f"{name} reaches half {word}: {mean:+.1f} [{low:+.1f}, {high:+.1f}] % of the features."
            if word
            else f"{name}: no difference shown."
        )
    if not said:
        return ""
    seen = "Yes" if all(earlier) else "In part" if any(earlier) else "No"
    return (
        f"Do curves of defended networks rise earlier than {usual[0]}'s, as Wu et al. observe?"
        f" {seen}. {' '.join(said)}"
    )


def _by_slope(found: Mapping[str, Contributions]) -> str:
    names = [name for name, result in found.items() if result.meta.get("slope")]
    return (
        f"{' and '.join(names) or 'This network'} has no linear last layer: there a contribution"
        " is a feature times the derivative of the logit with respect to it. "
        if any(result.meta.get("slope") for result in found.values())
        else ""
    )


def dropped(result: Contributions, *, side: str = "a", template: str = LIGHT) -> go.Figure:
    """Bar chart of the first image's contributions, largest first, coloured by what the result's
    draw of guided dropout (`mask`) does: never drops the feature, keeps it this time, or drops it.
    `side`, `a` or `b`: whose colour the bars have.
    """
    colour, meta = COLOURS[template], result.meta
    order = np.argsort(-result.parts[0], kind="stable")
    parts, mask, width = result.parts[0][order], result.mask[0][order], len(order)
    figure = blank(
        template,
        f"What guided dropout drops: {result.class_name}",
        f"image {result.index[0]}, one draw",
        height=360,
        barmode="overlay",
        bargap=0.1,
        xaxis={"title": "features, largest first", "range": [0.3, width + 0.7]},
        yaxis={"title": "adds to the logit"},
    )
    kept, gone, rank = mask == 1, mask == 0, np.arange(1, width + 1)
    stays = ~kept & ~gone
    for label, where, marker in (
        ("kept" if meta["rate"] else "kept (rate 0)", kept, {"color": colour[side]}),
        (
            "droppable, kept in this draw",
            stays,
            {"color": colour["paper"], "line": {"color": colour[side], "width": 1.5}},
        ),
        ("dropped", gone, {"color": colour["faint"], "pattern": {"shape": "x"}}),
    ):
        figure.add_bar(
            x=rank[where],
            y=parts[where],
            name=label,
            marker=marker,
            customdata=order[where],
            hovertemplate="feature %{customdata}: %{y:.2f}<extra>" + label + "</extra>",
        )
    logit, bias = float(result.logit[0]), result.bias[0]
    always = math.ceil(float(meta["keep"]) * width)
    whose = "its own training" if meta["own"] else "AALP's usual settings"
    by = " by size" if meta.get("contribution") == "magnitude" else ""
    choice = DROPPED[meta["dropped"]].format(always=always, rest=width - always, width=width, by=by)
    return finish(
        figure,
        "Bars: each feature's contribution to the true class's logit, sorted.",
        meta | {"index": int(result.index[0])},
        f"The logit of {result.class_name} is {logit:.2f}. Contributions give"
        f" {logit - bias:.2f}, the bias {bias:.2f}. This draw drops {gone.sum()} features and"
        f" scales {int(stays.sum())} up; the logit becomes"
        f" {float((result.parts[0] * result.mask[0]).sum() + bias):.2f}.",
        f"Dropout with {whose}: {choice}. Its rate is {meta['rate']:g}, the draw's seed"
        f" {meta['seed']}.",
    )


def pairing(
    result: Pairing, *, side: str = "a", weight: str = "", template: str = LIGHT
) -> go.Figure:
    """Scatter plot of pairing loss against the attacked image's cross-entropy, coloured by pair
    weight. A box in the style of `side`, `a` or `b`, marks over-paired pairs: cross-entropy above
    ln 2, pairing loss above the median. `weight`: a value of AALP's `pair_weight`; "": the run's.
    """
    colour, kind = COLOURS[template], weight or str(result.meta["pair_weight"])
    w, median = result.weight(kind), float(np.median(result.pairing))
    x, y = np.maximum(result.ce_adv, FLOOR), np.maximum(result.pairing, FLOOR)
    right, top = 2 * max(float(x.max()), 1.0), 2 * max(float(y.max()), median, 10 * FLOOR)
    left, bottom = (
        math.log10(min(values.min(), edge)) - 0.15 for values, edge in ((x, CORNER), (y, top))
    )
    figure = blank(
        template,
        "Which pairs the pairing loss pulls together",
        f"{len(w)} images and their attacked twins",
        height=460,
        xaxis={"title": "CE of the attacked image", "range": [left, math.log10(right)]},
        yaxis={"title": "pairing loss", "range": [bottom, math.log10(top) + 0.25]},
    )
    for right_adv, name, symbol in ((True, "right", "circle"), (False, "misread", "x")):
        where = result.right_adv == right_adv
        if where.any():
            figure.add_scatter(
                x=x[where],
                y=y[where],
                mode="markers",
                name=f"attacked: {name}",
                customdata=result.index[where][:, None].tolist(),  # each image's index
                marker={
                    "symbol": symbol,
                    "size": 9,
                    "color": w[where],
                    "cmin": 0,
                    "cmax": 1,
                    "colorscale": "Cividis",
                    "line": {"color": colour["faint"], "width": 1},
                    "showscale": not figure.data,
                    "colorbar": {
                        "title": {"text": WEIGHTS[kind], "side": "right"},
                        "thickness": 14,
                    },
                },
                hovertemplate=(
                    "image %{customdata[0]}: CE %{x:.2g}, pairing %{y:.2g}, weight"
                    " %{marker.color:.2f}<extra></extra>"
                ),
            )
    _corner(figure, (right, max(median, FLOOR), top), int(_over(result).sum()), side, colour[side])
    return finish(
        figure.update_xaxes(type="log", **_ticks(left, math.log10(right))).update_yaxes(
            type="log", **_ticks(bottom, math.log10(top) + 0.25)
        ),
        "Scatter: pairing loss against cross-entropy, one point per image.",
        result,
        _over_paired(result, kind),
        f"{OVER_PAIRED} {median:.2g}. The weight of a pair is {WEIGHTS[kind]}. {_attack(result)}.",
    )


def _ticks(low: float, high: float) -> dict[str, list[float] | list[str]]:
    """Returns the ticks of a logarithmic axis from 10^`low` to 10^`high`: the powers of ten, and if
    there are fewer than two of these also 2 and 5 times the powers.
    """
    tens = range(math.floor(low), math.ceil(high) + 1)
    every = [factor * 10.0**power for power in tens for factor in (1, 2, 5)]
    inside = [value for value in every if low <= math.log10(value) <= high]
    powers = [value for value in inside if round(math.log10(value), 9).is_integer()]
    marks = powers if len(powers) > 1 else inside
    return {"tickvals": marks, "ticktext": [f"{value:g}" for value in marks]}


def _over(result: Pairing) -> Bools:
    """Returns which pairs lie in the over-paired corner, (n,) bool: the attacked image's
    cross-entropy is above `CORNER` and the pairing loss is above its median.
    """
    return (result.ce_adv > CORNER) & (result.pairing > float(np.median(result.pairing)))


def _corner(
    figure: go.Figure, ends: tuple[float, float, float], count: int, side: str, colour: str
) -> None:
    """Draw a box around the over-paired corner, and write `count`, its number of pairs, at the box.
    `ends`: the positions of its right, lower and upper edge; the left one is at `CORNER`.
    """
    right, low, top = ends
    figure.add_shape(
        type="rect",
        x0=CORNER,
        x1=right,
        y0=low,
        y1=top,
        line={"color": colour, "dash": DASHES[side], "width": 2},
        fillcolor=clear(colour),
        layer="below",
    ).add_annotation(
        x=math.log10(right),
        y=math.log10(top),
        text=f"over-paired: {count}",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        font={"color": colour},
    )


def _over_paired(result: Pairing, kind: str) -> str:
    corner, weighed = _over(result), result.weight(kind) * result.pairing
    said = f"{corner.sum()} of {len(corner)} images lie in the over-paired corner."
    return (
        f"{said} They hold {100 * result.pairing[corner].sum() / float(result.pairing.sum()):.0f}%"
        f" of the pairing loss, {100 * weighed[corner].sum() / float(weighed.sum()):.0f}% once"
        " each pair is weighted."
        if corner.any() and float(weighed.sum()) > 0
        else said
    )


def opposition(
    results: Pairing | Mapping[str, Pairing], *, weight: str = "", template: str = LIGHT
) -> go.Figure:
    """Histogram over images of the cosine between the gradients of pairing loss and cross-entropy.

    For one or two networks; below 0 the gradients oppose each other. `weight`, as in `pairing`, is
    the weight of a pair in the sentences; the bars count images.
    """
    found, colour = named(results), COLOURS[template]
    first, edges = next(iter(found.values())), np.linspace(-1, 1, 21)
    figure = blank(
        template,
        "Does the pairing loss oppose cross-entropy?",
        barmode="group",
        bargap=0.1,
        height=380,
        xaxis={"title": "cosine of the two gradients, by image", "range": [-1, 1]},
        yaxis={"title": "images"},
    )
    for (name, result), (own, _) in zip(found.items(), styles(found), strict=False):
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=np.histogram(result.cosine[np.isfinite(result.cosine)], edges)[0],
            name=name,
            marker={"color": colour[own], "pattern": {"shape": "/" if own == "b" else ""}},
            hovertemplate="%{y} images near cosine %{x:.2f}<extra>" + name + "</extra>",
        )
    figure.add_vline(
        x=0,
        line={"color": colour["text"], "width": 2},
        annotation_text="← oppose",
        annotation_position="top left",
        annotation={"bgcolor": colour["paper"]},
    )
    return finish(
        figure,
        "Histogram of the cosine of the gradients of pairing loss and cross-entropy.",
        found,
        " ".join(
            _opposed(name, result, weight or str(result.meta["pair_weight"]))
            for name, result in found.items()
        ),
        " ".join(
            _opposed_surely(name, result, weight or str(result.meta["pair_weight"]))
            for name, result in found.items()
        )
        + f" Intervals are 95%. {_attack(first)}.",
    )


def _opposed(name: str, result: Pairing, kind: str) -> str:
    """Returns a text on the share of the images on which the two gradients oppose each other, and
    whether the pair weights `kind` change that share.
    """
    there = int(np.isfinite(result.cosine).sum())
    if not there:
        return (
            f"{name}: there is no image among {len(result.y)} on which both losses have a"
            " nonzero gradient."
        )
    share = 100 * result.opposed()[0]
    text = f"{name}: the gradients oppose each other on {share:.0f}% of {there} images."
    if kind == "ones":
        return text
    weighed, (_, least, most) = 100 * result.opposed(kind)[0], result.relief(kind)
    if not math.isfinite(weighed):
        return f"{text} No pair has any weight."
    verdict = "less" if most < 0 else "more" if least > 0 else "no difference shown"
    return (
        f"{text} Fewer than {FEW} images say nothing about the weights."
        if there < FEW
        else f"{text} These hold {weighed:.0f}% of the weight: {verdict}."
    )


def _opposed_surely(name: str, result: Pairing, kind: str) -> str:
    """Returns a text with the shares of `_opposed`, their change, and 95% intervals; empty if no
    image has two nonzero gradients.
    """
    share, low, high = (100 * value for value in result.opposed())
    weighed, below, above = (100 * value for value in result.opposed(kind))
    moved, least, most = (100 * value for value in result.relief(kind))
    if not math.isfinite(share):
        return ""
    text = f"{name}: {share:.0f}% [{low:.0f}, {high:.0f}] of the images oppose."
    if kind == "ones" or not math.isfinite(weighed) or not math.isfinite(moved):
        return text
    return (
        f"{text} With the weights {weighed:.0f}% [{below:.0f}, {above:.0f}]. The change is"
        f" {moved:+.0f} [{least:+.0f}, {most:+.0f}] percentage points. The weights are"
        f" {WEIGHTS[kind]}."
    )


def _attack(result: Pairing) -> str:
    return (
        f"PGD-{result.meta['attack']['steps']}, ε = {eps_text(result.meta['eps'])}, seed"
        f" {result.meta['seed']}"
    )
