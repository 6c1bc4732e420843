"""The figures of the Transfer page: who is fooled by whose images, what alignment moves, how like
the answers are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import FEW, tango
from robustviz.training.evaluation import attack_name
from robustviz.types import UserError, eps_text
from robustviz.views.theme import COLOURS, blank, finish
from robustviz.views.transfer.result import Transfer

LIGHT = "robustviz_light"
FAINT = 25.0  # points: smaller differences must not look large
ALIKE = 0.1  # nats, for the same reason
WIDTH = 13  # letters of a line beside the matrix: it must fit on a phone


def transfer(
    results: Transfer | Mapping[str, Transfer], *, b: str = "", template: str = LIGHT
) -> go.Figure:
    """Error of each target (a row) on the qualified images of each source (a column), with n and 95
    % intervals in the cells.

    `b`: the run id of the target that is network B, to be marked.
    """
    found = _named(results)
    targets, labels = _targets(found), _labels(found, b)
    error, text = np.full((len(targets), len(found)), np.nan), []
    for row, target in enumerate(targets):
        cells = []
        for column, result in enumerate(found.values()):
            at = result.targets.index(target) if target in result.targets else None
            if at is None:
                cells.append("took part")
            elif not result.n[at]:
                cells.append("n = 0")
            else:
                error[row, column] = 100 * result.error[at]
                low, high = 100 * result.interval[at]
                cells.append(
                    f"{error[row, column]:.0f} %<br>[{low:.0f}, {high:.0f}]<br>n = {result.n[at]}"
                )
        text.append(cells)
    first = next(iter(found.values()))
    figure = _matrix(
        "Does a trick for one fool another?",
        f"error if qualified, {_attack(first)}",
        error,
        [*found],
        [labels[one] for one in targets],
        text,
        template,
        {"colorscale": "Cividis", "zmin": 0, "zmax": 100},
    )
    figure.update_layout(xaxis_title="images made on")
    return finish(
        figure,
        "Matrix: targets in rows, sources in columns, the transfer error in each cell.",
        _told(first),
        _said(found, error, labels),
    )


def _said(found: Mapping[str, Transfer], error: np.ndarray, labels: Mapping[str, str]) -> str:
    targets, sources, first = _targets(found), list(found), next(iter(found.values()))
    counts = [int(n) for result in found.values() for n in result.n]
    if not np.isfinite(error).any():
        return (
            f"None of the {first.meta['n']} images qualifies for any pair at ε ="
            f" {eps_text(first.meta['eps'])}: both networks must know the image and be fooled by"
            " their own attack. Take more images or a larger ε."
        )

    def cell(at: int) -> str:
        row, column = np.unravel_index(at, error.shape)
        result = found[sources[column]]
        place = result.targets.index(targets[row])
        low, high = 100 * result.interval[place]
        others = int((error == error.flat[at]).sum()) - 1
        tie = f", as {others} other{'s' if others > 1 else ''}" if others else ""
        return (
            f"{labels[targets[row]]} by images of {sources[column]} ({error.flat[at]:.0f} %"
            f" [{low:.0f}, {high:.0f}] of {result.n[place]}{tie})"
        )

    text = (
        f"Made with {_attack(first)}, seed {first.meta['seed']}; {min(counts)} to {max(counts)}"
        " images qualify in a cell. "
    )
    if np.isfinite(error).sum() == 1:
        text += f"Fooled is {cell(int(np.nanargmax(error)))}."
    elif np.nanmin(error) == np.nanmax(error):
        text += f"Every cell has the same error: {np.nanmax(error):.0f} %."
    else:
        text += (
            f"Most often fooled is {cell(int(np.nanargmax(error)))}, least often"
            f" {cell(int(np.nanargmin(error)))}."
        )
    none = counts.count(0)
    text += f" In {none} cell{'s' if none > 1 else ''} no image qualifies." if none else ""
    text += (
        f" Below {FEW} images an error says little: read the intervals."
        if min(counts) < FEW
        else ""
    )
    return f"{text} {_resisting(found, labels)}".strip()


def _resisting(found: Mapping[str, Transfer], labels: Mapping[str, str]) -> str:
    """What images made elsewhere do to defended targets: all images count, for few of a defended
    network's qualify.
    """
    said = []
    for target in _targets(found):
        errors, untouched = [], 0.0
        for result in found.values():
            groups = result.meta.get("groups", [])
            if (
                target in result.targets
                and groups
                and groups[1 + result.targets.index(target)] == "defence"
            ):
                at = result.targets.index(target)
                errors.append(100 * float(result.error_of_all[at]))
                untouched = 100 * (1 - float(result.accuracy[1 + at]))
        if errors:
            span = (
                f"{min(errors):.0f} %"
                if round(min(errors)) == round(max(errors))
                else f"{min(errors):.0f} to {max(errors):.0f} %"
            )
            said.append(
                f"{labels[target]} errs on {span} of all attacked images, on {untouched:.0f} %"
                " untouched"
            )
    return f"Do defended targets resist? Qualified or not, {'; '.join(said)}." if said else ""


def transfer_difference(
    found: Mapping[str, Transfer], *, of: str = "", b: str = "", template: str = LIGHT
) -> go.Figure:
    """The error on images made on the source `of` minus that on those of each other source (a
    column), for each target (a row).

    Compared are the images that qualify for both, in points with Tango's 95 % intervals; around a
    neutral 0. `of`: by default the first source that was aligned. Raises UserError where there is
    nothing to compare, or measured differently.
    """
    of = of or next((name for name, result in found.items() if result.aligned), "")
    if of not in found or len(found) < 2:
        raise UserError(
            "The difference view needs an aligned source and one more to compare it with."
        )
    ours, rest = found[of], {name: result for name, result in found.items() if name != of}
    if any(_protocol(result) != _protocol(ours) for result in rest.values()):
        raise UserError(
            "These sources were not attacked alike: measure all with the same attack, ε, seed and"
            " number of images."
        )
    targets, labels = (
        [one for one in ours.targets if any(one in result.targets for result in rest.values())],
        _labels(found, b),
    )
    moved, text = np.full((len(targets), len(rest)), np.nan), [[""] * len(rest) for _ in targets]
    sentences, limit = [], FAINT
    for column, (name, theirs) in enumerate(rest.items()):
        verdicts, counts = {"higher": 0, "lower": 0, "undecided": 0}, []
        for row, target in enumerate(targets):
            if target not in theirs.targets:
                text[row][column] = "took part"
                continue
            at, other = ours.targets.index(target), theirs.targets.index(target)
            both = ours.qualified[at] & theirs.qualified[other]
            n, only = int(both.sum()), int((both & ours.wrong[at] & ~theirs.wrong[other]).sum())
            less = int((both & ~ours.wrong[at] & theirs.wrong[other]).sum())
            counts.append(n)
            if not n:
                text[row][column] = "n = 0"
                continue
            low, high = (100 * value for value in tango(only, less, n))
            moved[row, column] = 100 * (only - less) / n
            limit = max(
                limit, -low, high
            )  # the colours span the intervals, so that what is undecided is pale
            verdicts["higher" if low > 0 else "lower" if high < 0 else "undecided"] += 1
            text[row][column] = f"{moved[row, column]:+.0f}<br>[{low:+.0f}, {high:+.0f}]<br>n = {n}"
        empty = counts.count(0)
        sentences.append(
            f"Against {name}: the error is decidedly higher on {verdicts['higher']}, lower on"
            f" {verdicts['lower']}, undecided on {verdicts['undecided']} of {len(counts)} targets"
            f" (95 % intervals, {min(counts, default=0)} to {max(counts, default=0)} images)"
            + (f"; on {empty} no image qualifies." if empty else ".")
        )
    figure = _matrix(
        f"{of} minus each other source",
        f"points of error, {_attack(ours)}",
        moved,
        [*rest],
        [labels[one] for one in targets],
        text,
        template,
        {"colorscale": "RdBu_r", "zmid": 0, "zmin": -limit, "zmax": limit},
    )
    figure.update_layout(xaxis_title=f"{of} minus")
    said = (
        f"Made with {_attack(ours)}, seed {ours.meta['seed']}; compared on images that qualify for"
        f" both. {' '.join(sentences)} One source network says little about a method."
    )
    return finish(
        figure, "Matrix: the difference of transfer errors, around zero.", _told(ours), said
    )


def prediction_kl(result: Transfer, *, template: str = LIGHT) -> go.Figure:
    """How far apart untouched images' softmax outputs are: the mean KL of the row's from the
    column's, in nats.
    """
    roles = {0: "source", len(result.targets) + 1: "before", len(result.targets) + 2: "witness"}
    names = [
        roles.get(at, f"{at} {str(label).replace(' seed ', ' s')}")
        for at, label in enumerate(result.meta["labels"])
    ]
    kl = np.maximum(result.kl, 0)
    text = [[f"{value:.2f}" for value in row] for row in kl]
    figure = _matrix(
        "How like are the answers?",
        f"mean KL in nats, {result.meta['n']} untouched images",
        kl,
        [roles.get(at, str(at)) for at in range(len(names))],
        names,
        text,
        template,
        {"colorscale": "Cividis", "zmin": 0, "zmax": max(ALIKE, float(kl.max()))},
    )
    figure.update_layout(xaxis_title="from the row's answers to", height=170 + 52 * len(names))
    figure.data[0].textfont.size = 11
    targets = range(1, len(result.targets) + 1)
    if result.aligned:
        before, witness = len(names) - 2, len(names) - 1
        nearer = sum(bool(kl[at, 0] < kl[at, before]) for at in targets)
        said = (
            f"From the witness's answers to the source's the KL is {kl[witness, before]:.3f} before"
            f" the alignment and {kl[witness, 0]:.3f} after. On these {result.meta['n']} images the"
            f" source comes nearer to {nearer} of {len(targets)} unseen targets."
        )
    else:
        far = sorted(targets, key=lambda at: kl[at, 0])
        said = (
            f"Nearest to the source's answers are those of {result.meta['labels'][far[0]]} (KL"
            f" {kl[far[0], 0]:.3f}), farthest those of {result.meta['labels'][far[-1]]}"
            f" ({kl[far[-1], 0]:.3f})."
            if len(far) > 1
            else (
                f"From the answers of {result.meta['labels'][1]} to the source's the KL is"
                f" {kl[1, 0]:.3f}."
            )
        )
    return finish(
        figure,
        "Matrix: the mean KL divergence between the answers of any two networks.",
        _told(result),
        said,
    )


def _matrix(
    title: str,
    subtitle: str,
    z: np.ndarray,
    x: list[str],
    y: list[str],
    text: list[list[str]],
    template: str,
    colours: dict[str, Any],
) -> go.Figure:
    """A heat map with its numbers written in, narrow enough for a phone."""
    figure = blank(
        template,
        title,
        subtitle,
        height=170 + 78 * len(y),
        margin={"l": 8, "r": 8, "t": 80, "b": 84},
    )
    line = COLOURS[template]["text"]
    figure.add_heatmap(
        z=z,
        x=[_wrapped(name) for name in x],
        y=[_wrapped(name) for name in y],
        text=text,
        texttemplate="%{text}",
        textfont={"size": 12},
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        xgap=2,
        ygap=2,
        hoverongaps=True,
        showscale=False,
        **colours,
    )
    for row, column in zip(
        *np.nonzero(~np.isfinite(z)), strict=True
    ):  # Plotly writes nothing where there is no number
        figure.add_annotation(
            x=int(column),
            y=int(row),
            text=text[row][column],
            showarrow=False,
            font={"color": line, "size": 12},
            xref="x",
            yref="y",
        )
    # Ranges and order said, because Plotly takes none from a matrix without a number.
    for update, names, ends in (
        (figure.update_xaxes, x, [-0.5, len(x) - 0.5]),
        (figure.update_yaxes, y, [len(y) - 0.5, -0.5]),
    ):
        update(
            type="category",
            categoryorder="array",
            categoryarray=[_wrapped(name) for name in names],
            range=ends,
            tickvals=[*range(len(names))],
            ticktext=[_wrapped(name) for name in names],
            tickfont={"size": 12},
            ticks="",
            showgrid=False,
        )
    return figure


def _wrapped(name: str) -> str:
    """The name in lines of at most twelve letters, as far as its words allow."""
    lines = [""]
    for word in name.replace("model_alignment", "aligned").split():
        if lines[-1] and len(lines[-1]) + len(word) >= WIDTH:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return "<br>".join(lines)


def _named(results: Transfer | Mapping[str, Transfer]) -> Mapping[str, Transfer]:
    return {str(results.meta["run"]): results} if isinstance(results, Transfer) else dict(results)


def _targets(found: Mapping[str, Transfer]) -> list[str]:
    """Every target's run id, in the order in which they come."""
    return list(dict.fromkeys(target for result in found.values() for target in result.targets))


def _labels(found: Mapping[str, Transfer], b: str) -> dict[str, str]:
    """What each target is called, with a B before network B."""
    out = {
        one: str(label)
        for result in found.values()
        for one, label in zip(result.models, result.meta["labels"], strict=True)
    }
    several = {
        label for label in out.values() if list(out.values()).count(label) > 1
    }  # rows of one name would be one row
    return {
        one: ("B " if one == b else "") + label + (f" {one[-4:]}" if label in several else "")
        for one, label in out.items()
    }


def _attack(result: Transfer) -> str:
    return (
        f"{attack_name(result.meta['attack'] | {'step_size': None})}, ε ="
        f" {eps_text(result.meta['eps'])}"
    )


def _told(result: Transfer) -> dict[str, Any]:
    """What a figure keeps of where it comes from: not the seconds, which differ from one
    measurement to the next.
    """
    return {name: value for name, value in result.meta.items() if name != "seconds"}


def _protocol(result: Transfer) -> tuple[Any, ...]:
    return (
        result.meta["attack"],
        result.meta["eps"],
        result.meta["seed"],
        result.meta["n"],
        result.meta["data"],
    )
