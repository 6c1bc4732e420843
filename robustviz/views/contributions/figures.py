"""The figures of the Contributions page: how few features carry an answer, what is dropped, which
pairs are pulled, more steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import mean_interval, t_quantile, tango, wilson
from robustviz.types import eps_text
from robustviz.views.contributions.result import AttackSteps, Contributions, Pairing
from robustviz.views.result import Result
from robustviz.views.theme import COLOURS, DASHES, blank, finish

LIGHT = "robustviz_light"
FEW = 10  # images: below, no verdict
FLOOR = 1e-3  # losses below are drawn here on the logarithmic axes
CORNER = math.log(2)  # cross-entropy above: the true class's output is below one half
OTHERS = (
    ("text", "dot"),
    ("faint", "dashdot"),
    ("text", "longdash"),
    ("faint", "longdashdot"),
)  # networks besides A and B
WEIGHTS = {
    "adversarial": "w = p(y|x')",
    "clean": "w = p(y|x)",
    "loss": "w = 1/(1 + CE(x'))",
    "ones": "w = 1",
}

R = TypeVar("R", bound=Result)


def contributions(
    results: Contributions | Mapping[str, Contributions], *, template: str = LIGHT
) -> go.Figure:
    """Share of all that speaks for the true class against the number of features, largest first:
    one image or the mean of many, any number of networks; a ring where half is reached.
    """
    found = _named(results)
    colour, first = COLOURS[template], next(iter(found.values()))
    alone = len(first.y) == 1
    what = (
        f"image {first.index[0]}, {_class(first)}"
        if alone
        else f"mean of {len(first.y)} test images, untouched; band: 95 %"
    )
    figure = blank(template, "How many features carry the answer", what, height=440)
    reach = 10.0  # the axis ends where the slowest curve has nearly all
    for (name, result), (own, dash) in zip(found.items(), _styles(found), strict=True):
        shares = result.shares[np.isfinite(result.half)]
        if not len(shares):
            continue
        width = result.parts.shape[1]
        x, mean = 100 * np.arange(width + 1) / width, shares.mean(axis=0)
        if len(shares) > 1 and own in ("a", "b"):
            half = t_quantile(len(shares) - 1) * shares.std(axis=0, ddof=1) / math.sqrt(len(shares))
            figure.add_scatter(
                x=[*x, *x[::-1]],
                y=[*(mean + half).clip(0, 1), *(mean - half).clip(0, 1)[::-1]],
                fill="toself",
                mode="none",
                fillcolor=_clear(colour[own]),
                hoverinfo="skip",
                showlegend=False,
            )
        figure.add_scatter(
            x=x,
            y=mean,
            mode="lines",
            name=name,
            line={"color": colour[own], "dash": dash, "width": 3},
            customdata=np.arange(width + 1),
            hovertemplate="%{customdata} features: %{y:.0%}<extra>" + name + "</extra>",
        )
        reach = max(reach, float(x[int((mean >= 0.99).argmax())]))
        at = int((mean >= 0.5).argmax())
        figure.add_scatter(
            x=[x[at]],
            y=[mean[at]],
            mode="markers",
            showlegend=False,
            hoverinfo="skip",
            name=f"{name}, half",
            marker={
                "size": 11,
                "color": colour["paper"],
                "line": {"color": colour[own], "width": 3},
            },
        )
    figure.add_hline(y=0.5, line={"color": colour["faint"], "dash": "dot", "width": 1})
    figure.update_xaxes(title="largest features (% of all)", range=[0, reach])
    figure.update_yaxes(title="share held", range=[0, 1.02], tickformat=".0%")
    return finish(
        figure,
        "Cumulative share of the positive contributions against the number of features.",
        first.meta,
        _carried(found),
    )


def _carried(found: Mapping[str, Contributions]) -> str:
    """How many features carry half of each answer, and whether robust networks need fewer, on the
    same images.
    """
    first, said = next(iter(found.values())), []
    for name, result in found.items():
        there = np.isfinite(result.half)
        width = result.parts.shape[1]
        if not there.any():
            said.append(f"none in {name}, where nothing speaks for the class")
        elif len(result.y) == 1:
            said.append(
                f"{result.half[0]:.0f} of {width} features in {name} (effective number"
                f" {result.effective[0]:.1f})"
            )
        else:
            said.append(
                f"{result.half[there].mean():.1f} of {width} features in {name} (effective number"
                f" {result.effective[there].mean():.1f})"
            )
    if len(first.y) == 1:
        return (
            f"Half of what speaks for {_class(first)} on image {first.index[0]} is carried by"
            f" {_list(said)}."
        )
    lacking = max(int((~np.isfinite(result.half)).sum()) for result in found.values())
    text = (
        f"Half of what speaks for the true class is carried, on average over {len(first.y)} images,"
        f" by {_list(said)}."
    )
    text += (
        f" Images on which nothing speaks for it are left out: at most {lacking} a network."
        if lacking
        else ""
    )
    return f"{text} {_risen(found)}".strip()


def _risen(found: Mapping[str, Contributions]) -> str:
    """Observation 1 of Wu et al., robust networks' curves rise earlier: seen here or not, in pairs
    against the first ordinary network.
    """
    usual = next(
        (name for name, result in found.items() if result.meta["method"] == "standard"), None
    )
    robust = [name for name, result in found.items() if result.meta.get("group") == "defence"]
    if usual is None or not robust:
        return (
            "Whether curves of defended networks rise earlier needs an ordinary and a defended"
            " network."
        )
    verdicts: dict[str, list[str]] = {"earlier": [], "later": [], "undecided": []}
    for name in robust:
        ours, theirs = found[name], found[usual]
        if not np.array_equal(ours.index, theirs.index):
            continue
        moved = 100 * (ours.half / ours.parts.shape[1] - theirs.half / theirs.parts.shape[1])
        moved = moved[np.isfinite(moved)]
        if len(moved) < FEW:
            return f"Fewer than {FEW} images say nothing about whose curve rises earlier."
        mean, low, high = mean_interval(moved)
        verdict = "earlier" if high < 0 else "later" if low > 0 else "undecided"
        verdicts[verdict].append(
            f"{name} ({mean:+.1f} [{low:+.1f}, {high:+.1f}] % of the features)"
        )
    said = [f"{word} in {_list(names)}" for word, names in verdicts.items() if names]
    if not said:
        return ""
    seen = (
        "Yes"
        if not verdicts["later"] and not verdicts["undecided"]
        else "No"
        if not verdicts["earlier"]
        else "In part"
    )
    return (
        f"Do curves of defended networks rise earlier than {usual}'s, as Wu et al. observe? {seen}:"
        f" half is reached {'; '.join(said)}. Differences on the same images, 95 % intervals."
    )


def dropped(result: Contributions, *, side: str = "a", template: str = LIGHT) -> go.Figure:
    """One image's contributions, largest first: which guided dropout always keeps, and of the
    others which one draw drops.
    """
    colour = COLOURS[template]
    order = np.argsort(-result.parts[0], kind="stable")
    parts, mask = result.parts[0][order], result.mask[0][order]
    rate, width = float(result.meta["rate"]), len(parts)
    kept, gone = mask == 1, mask == 0
    figure = blank(
        template,
        f"What guided dropout drops: {_class(result)}",
        f"image {result.index[0]}; one draw, seed {result.meta['seed']}",
        height=360,
        barmode="overlay",
        bargap=0.1,
    )
    rank = np.arange(1, width + 1)
    for label, where, marker in (
        ("kept" if rate else "kept (rate 0)", kept, {"color": colour[side]}),
        (
            "could go, stays",
            ~kept & ~gone,
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
    figure.update_xaxes(title="features, largest first", range=[0.3, width + 0.7])
    figure.update_yaxes(title="adds to the logit")
    logit, thinned = (
        float(result.logit[0]),
        float((result.parts[0] * result.mask[0]).sum() + result.bias[0]),
    )
    always = math.ceil(float(result.meta["keep"]) * width)
    choice = {
        "low": f"the top {always} of {width} always stay",
        "top": f"as a control the lowest {width - always} of {width} always stay",
        "random": f"as a control any of the {width} may go",
    }[result.meta["dropped"]]
    whose = "its own training" if result.meta["own"] else "AALP's usual settings"
    sentence = (
        f"The logit of {_class(result)} is {logit:.2f}: contributions {logit - result.bias[0]:.2f},"
        f" bias {result.bias[0]:.2f}. With {whose} ({choice}; rate {rate:g}) this draw drops"
        f" {gone.sum()} features and scales {int((~kept & ~gone).sum())} up; the logit becomes"
        f" {thinned:.2f}."
    )
    return finish(
        figure,
        "Bars: each feature's contribution to the true class's logit, sorted.",
        result.meta,
        sentence,
    )


def pairing(
    result: Pairing, *, side: str = "a", weight: str = "", template: str = LIGHT
) -> go.Figure:
    """Pairing loss against the attacked image's cross-entropy, a point an image, coloured by the
    pair's weight; the over-paired corner is marked. `weight`: one of AALP's, by default the
    network's own. `customdata`: image numbers.
    """
    colour, kind = COLOURS[template], weight or str(result.meta["pair_weight"])
    w, median = result.weight(kind), float(np.median(result.pairing))
    corner = (result.ce_adv > CORNER) & (result.pairing > median)
    figure = blank(
        template,
        "Which pairs are pulled together",
        f"{len(w)} images, {_attack(result)}",
        height=460,
    )
    x, y = np.maximum(result.ce_adv, FLOOR), np.maximum(result.pairing, FLOOR)
    for name, where, symbol in (
        ("right", result.right_adv, "circle"),
        ("misread", ~result.right_adv, "x"),
    ):
        if where.any():
            figure.add_scatter(
                x=x[where],
                y=y[where],
                mode="markers",
                name=f"attacked: {name}",
                customdata=result.index[where][:, None].tolist(),
                marker={
                    "symbol": symbol,
                    "size": 9,
                    "color": w[where],
                    "cmin": 0,
                    "cmax": 1,
                    "colorscale": "Cividis",
                    "line": {"color": colour["faint"], "width": 1},
                    "showscale": not any(trace.marker.showscale for trace in figure.data),
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
    right, top = 2 * max(float(x.max()), 1.0), 2 * max(float(y.max()), median, 10 * FLOOR)
    figure.add_shape(
        type="rect",
        x0=CORNER,
        x1=right,
        y0=max(median, FLOOR),
        y1=top,
        line={"color": colour[side], "dash": DASHES[side], "width": 2},
        fillcolor=_clear(colour[side]),
        layer="below",
    )
    figure.add_annotation(
        x=math.log10(right),
        y=math.log10(top),
        text=f"over-paired: {corner.sum()}",
        showarrow=False,
        xanchor="right",
        yanchor="bottom",
        font={"color": colour[side]},
    )
    low, bottom = (
        math.log10(min(values.min(), edge)) - 0.15 for values, edge in ((x, CORNER), (y, top))
    )
    figure.update_xaxes(
        type="log", title="CE of the attacked image", range=[low, math.log10(right)], dtick=1
    )
    figure.update_yaxes(
        type="log", title="pairing loss", range=[bottom, math.log10(top) + 0.25], dtick=1
    )
    pull = float(result.pairing.sum())
    weighed = float((w * result.pairing).sum())
    sentence = (
        f"{corner.sum()} of {len(w)} images lie in the over-paired corner: the attacked image's"
        " cross-entropy is above ln 2 (its true class gets less than one half) and the pairing"
        f" loss above this network's median, {median:.2g}."
    )
    if corner.any() and weighed > 0:
        sentence += (
            f" They hold {100 * result.pairing[corner].sum() / pull:.0f} % of the pairing loss, and"
            f" {100 * (w * result.pairing)[corner].sum() / weighed:.0f} % once each pair counts"
            f" with {WEIGHTS[kind]}."
        )
    return finish(
        figure,
        "Scatter: pairing loss against cross-entropy, a point an image.",
        result.meta,
        sentence,
    )


def opposition(
    results: Pairing | Mapping[str, Pairing], *, weight: str = "", template: str = LIGHT
) -> go.Figure:
    """How many images' gradients of pairing and cross-entropy have which cosine, one or two
    networks; below 0 they oppose.

    `weight` as in `pairing`.
    """
    found = _named(results)
    colour, first = COLOURS[template], next(iter(found.values()))
    figure = blank(
        template,
        "Does pairing pull against the class?",
        _attack(first),
        barmode="group",
        bargap=0.1,
        height=380,
    )
    edges = np.linspace(-1, 1, 21)
    for (name, result), (own, _) in zip(found.items(), _styles(found), strict=True):
        counts, _ = np.histogram(result.cosine[np.isfinite(result.cosine)], edges)
        figure.add_bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=counts,
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
    figure.update_xaxes(title="cosine of the two gradients, by image", range=[-1, 1])
    figure.update_yaxes(title="images")
    said = " ".join(
        _opposed(name, result, weight or str(result.meta["pair_weight"]))
        for name, result in found.items()
    )
    return finish(
        figure,
        "Histogram of the cosine of the gradients of pairing loss and cross-entropy.",
        first.meta,
        said,
    )


def _opposed(name: str, result: Pairing, kind: str) -> str:
    there = int(np.isfinite(result.cosine).sum())
    if not there:
        return f"{name}: on none of {len(result.y)} images have both losses a gradient."
    share, low, high = (100 * value for value in result.opposed())
    text = (
        f"{name}: the gradients oppose each other on {share:.0f} % [{low:.0f}, {high:.0f}] of"
        f" {there} images."
    )
    if kind == "ones":
        return text
    weighed, below, above = (100 * value for value in result.opposed(kind))
    moved, least, most = (100 * value for value in result.relief(kind))
    if not math.isfinite(weighed):
        return f"{text} No pair has any weight."
    verdict = "less" if most < 0 else "more" if least > 0 else "not decidedly less or more"
    if there < FEW:
        return f"{text} Fewer than {FEW} images say nothing about the weights."
    return (
        f"{text} These hold {weighed:.0f} % [{below:.0f}, {above:.0f}] of the weight with"
        f" {WEIGHTS[kind]}: {verdict} ({moved:+.0f} [{least:+.0f}, {most:+.0f}] points)."
    )


def attack_steps(
    results: AttackSteps | Mapping[str, AttackSteps], *, template: str = LIGHT
) -> go.Figure:
    """Accuracy against the number of PGD's steps with 95 % bands, and beside it under Square; one
    or two networks.
    """
    found = _named(results)
    colour, first = COLOURS[template], next(iter(found.values()))
    figure = blank(
        template,
        "Do more steps find more?",
        f"ε = {eps_text(first.meta['eps'])}, steps of ε/4, n = {first.n}, seed"
        f" {first.meta['seed']}; bands 95 %",
        height=420,
    )
    last = max(int(result.steps[-1]) for result in found.values())
    for at, ((name, result), (own, dash)) in enumerate(
        zip(found.items(), _styles(found), strict=True)
    ):
        band, steps = result.interval, result.steps
        figure.add_scatter(
            x=[*steps, *steps[::-1]],
            y=[*band[:, 1], *band[::-1, 0]],
            fill="toself",
            mode="none",
            fillcolor=_clear(colour[own]),
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(
            x=steps,
            y=result.accuracy,
            mode="lines+markers",
            name=name,
            line={"color": colour[own], "dash": dash, "width": 3},
            marker={"size": 7},
            hovertemplate="PGD-%{x}: %{y:.0%}<extra>" + name + "</extra>",
        )
        share, (low, high) = float(result.square.mean()), wilson(int(result.square.sum()), result.n)
        figure.add_scatter(
            x=[last * (3 + 0.6 * at)],
            y=[share],
            mode="markers",
            name=f"{name}, Square",
            showlegend=False,
            marker={
                "size": 13,
                "symbol": "square",
                "color": colour[own] if own != "b" else colour["paper"],
                "line": {"color": colour[own], "width": 3},
            },
            error_y={
                "type": "data",
                "array": [high - share],
                "arrayminus": [share - low],
                "color": colour[own],
            },
            hovertemplate=f"Square-{result.queries}: " + "%{y:.0%}<extra>" + name + "</extra>",
        )
    marks = [int(step) for step in first.steps if str(step)[0] == "1"]
    figure.update_xaxes(
        type="log",
        title="steps of PGD",
        tickvals=[*marks, last * 3.3],
        ticktext=[*map(str, marks), f"Square-<br>{first.queries}"],
        range=[-0.15, math.log10(last * 6)],
    )
    figure.update_yaxes(title="still right", range=[0, 1.02], tickformat=".0%")
    said = " ".join(_masked(name, result) for name, result in found.items())
    return finish(
        figure, "Accuracy against the number of attack steps, and under Square.", first.meta, said
    )


def _masked(name: str, result: AttackSteps) -> str:
    """What more steps and an attack without gradients find that fewer steps do not."""
    held, last = result.right[-1], int(result.steps[-1])
    text = (
        f"{name} at ε = {eps_text(result.meta['eps'])}: {result.clean.sum()} of {result.n} right"
        " untouched"
    )
    early = result.steps <= 20
    if early.any() and last > 20:
        at = int(result.steps[early][-1])
        before = int(result.right[early][-1].sum())
        text += (
            f", {before} after {at} steps of PGD, {held.sum()} after {last} (seed"
            f" {result.meta['seed']})."
        )
        text += f" Steps {at + 1} to {last} fool {before - int(held.sum())} more."
    else:
        text += f", {held.sum()} after {last} steps of PGD (seed {result.meta['seed']})."
    only, other = int((held & ~result.square).sum()), int((~held & result.square).sum())
    low, high = tango(only, other, result.n)
    text += (
        f" Square-{result.queries} leaves {result.square.sum()} and fools {only} that PGD does not."
    )
    if low > 0:
        return (
            f"{text} An attack without gradients finds more than PGD ({100 * low:.0f} to"
            f" {100 * high:.0f} points): PGD's gradient is masked."
        )
    if only:
        return (
            f"{text} That is no decided advantage over PGD, but count the worst of both:"
            f" {int((held & result.square).sum())} right."
        )
    return f"{text} Nothing here says that the gradient is masked; that is no proof."


def _attack(result: Pairing) -> str:
    return (
        f"PGD-{result.meta['attack']['steps']}, ε = {eps_text(result.meta['eps'])}, seed"
        f" {result.meta['seed']}"
    )


def _named(results: R | Mapping[str, R]) -> Mapping[str, R]:
    return {"A": results} if isinstance(results, Result) else dict(results)


def _styles(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A colour's name and a dash for each network: A's and B's own where names begin so, neutral
    ones for others.
    """
    sides = {name: name[0].lower() for name in found if name[:2] in ("A ", "B ", "A", "B")}
    sides = sides or dict(zip(found, ("a", "b"), strict=False))
    others = iter(OTHERS * (1 + len(found) // len(OTHERS)))
    return [(sides[name], DASHES[sides[name]]) if name in sides else next(others) for name in found]


def _class(result: Contributions) -> str:
    return str(result.meta["classes"][int(result.y[0])])


def _list(said: list[str]) -> str:
    return said[0] if len(said) == 1 else f"{', '.join(said[:-1])} and {said[-1]}" if said else ""


def _clear(colour: str) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"
