"""The figures of the Transfer page: which networks are fooled by the images of which, what
alignment changes in this, and how similar the networks' outputs are.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from robustviz.stats import FEW, tango
from robustviz.training.evaluation import attack_name
from robustviz.types import JSON, UserError, eps_text
from robustviz.views.theme import COLOURS, LIGHT, blank, finish
from robustviz.views.transfer.result import Fooled, Transfer
from robustviz.views.transfer.screen_figures import LEARNED, moved, targets

FAINT = 25.0  # points: the colour scale reaches at least ±25, so that small differences look small
FAINT_N = 30  # images: a cell with fewer is grey
ALIKE = 0.1  # nats: the least width of the colour scale of KL, for the same reason
WIDTH = 13  # letters of a line beside the matrix, which must fit on a phone


class Cell(NamedTuple):
    """A cell of a matrix: its text, the number of images that it counts (−1: the target took part
    in the training), its value (NaN for none), and the value's 95% interval.
    """

    text: str = "used in training"
    n: int = -1
    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


def transfer(
    results: Transfer | Mapping[str, Transfer], *, b: str = "", template: str = LIGHT
) -> go.Figure:
    """Draw a matrix: the error of each target (row) on the images attacked on each source (column),
    with n and 95% intervals in the cells.

    Only images count that both networks classify correctly when clean and misclassify under their
    own attack (`Transfer.qualified`). `b`: the id of the target run that is marked as network B.
    """
    found = {str(results.meta["run"]): results} if isinstance(results, Transfer) else dict(results)
    labels, first = _labels(found, b), next(iter(found.values()))
    cells = {
        target: {name: _error(result, target) for name, result in found.items()}
        for target in _targets(found)
    }
    return finish(
        _matrix(
            (
                "How often images of each source fool each target",
                "error on the images that qualify, in %",
            ),
            {labels[target]: row for target, row in cells.items()},
            "images attacked on",
            template,
            {"colorscale": "Cividis", "zmin": 0, "zmax": 100},
        ),
        "Matrix: targets in rows, sources in columns, the transfer error in each cell.",
        _meta(first),
        f"{_extremes(first, cells, labels)} {_resisting(found, labels)}".strip(),
        _qualifying(first, [cell.n for row in cells.values() for cell in row.values()]),
    )


def _error(result: Transfer, target: str) -> Cell:
    """The cell of a target's error, in %, on the qualified images of one source."""
    if target not in result.targets:
        return Cell()
    at = result.targets.index(target)
    if not result.n[at]:
        return Cell("n = 0", 0)
    error, (low, high), n = 100 * result.error[at], 100 * result.interval[at], result.n[at]
    return Cell(f"{error:.0f}%<br>[{low:.0f}, {high:.0f}]<br>n = {n}", n, error, low, high)


def _extremes(
    first: Transfer, cells: Mapping[str, Mapping[str, Cell]], labels: Mapping[str, str]
) -> str:
    """Which target is fooled most often, and which least often, in words. Cells with fewer than
    `FAINT_N` images count only if there are no others.
    """
    every = [
        (cell, f"{labels[target]}, by images of {source}")
        for target, row in cells.items()
        for source, cell in row.items()
        if cell.n > 0
    ]
    every = [each for each in every if each[0].n >= FAINT_N] or every
    values = [cell.value for cell, _ in every]
    if not values:
        return (
            f"None of the {first.meta['n']} images qualifies for any pair at ε ="
            f" {eps_text(first.meta['eps'])}: use more images or a larger ε."
        )

    def cell_of(value: float) -> str:
        name = next(name for cell, name in every if cell.value == value)
        others = values.count(value) - 1
        tie = f", as {others} other{'s' if others > 1 else ''}" if others else ""
        return f"{name} ({value:.0f}%{tie})"

    most, least = max(values), min(values)
    if len(values) == 1:
        return f"Fooled is {cell_of(most)}."
    return (
        f"Every cell has the same error: {most:.0f}%."
        if most == least
        else f"Most often fooled is {cell_of(most)}. Least often {cell_of(least)}."
    )


def _qualifying(first: Transfer, counts: list[int]) -> str:
    """How a matrix was measured, and how many images qualify in its cells, in words."""
    counts = [n for n in counts if n >= 0]
    none = counts.count(0)
    return (
        "An image qualifies if both networks classify it correctly untouched and each is fooled"
        f" by its own attack. Attack: {_attack(first)}, seed {first.meta['seed']}. In each cell,"
        f" {min(counts)} to {max(counts)} of {first.meta['n']} images qualify."
        + (f" In {none} cell{'s' if none > 1 else ''} no image qualifies." if none else "")
        + (f" Cells with fewer than {FAINT_N} are grey." if min(counts) < FAINT_N else "")
        + (
            f" With fewer than {FEW}, an error says little: read the intervals."
            if min(counts) < FEW
            else ""
        )
    )


def _resisting(found: Mapping[str, Transfer], labels: Mapping[str, str]) -> str:
    """The error of defended targets on all attacked images, in words; empty without such a target.
    All images count, because few qualify for a defended network.
    """
    defended = [
        (target, 100 * float(error), 100 * (1 - float(accuracy)))
        for result in found.values()
        for target, group, error, accuracy in zip(
            result.targets,
            result.meta.get("groups", [])[1:],
            result.error_of_all,
            result.accuracy[1:],
            strict=False,
        )
        if group == "defence"
    ]
    untouched = {target: share for target, _, share in defended}
    ends = {
        target: dict.fromkeys(
            f"{end(error for each, error, _ in defended if each == target):.0f}"
            for end in (min, max)
        )
        for target in _targets(found)
        if target in untouched
    }
    said = [
        f"\n- {labels[target]}: {' to '.join(errors)}% of all attacked images are misclassified,"
        f" {untouched[target]:.0f}% of the untouched ones."
        for target, errors in ends.items()
    ]
    return f"How robust are defended targets?\n{''.join(said)}" if said else ""


def transfer_difference(
    found: Mapping[str, Transfer], *, of: str = "", b: str = "", template: str = LIGHT
) -> go.Figure:
    """Draw a matrix: the error on images of the source `of` minus that on images of each other
    source (column), for each target (row).

    Compared are the images that qualify for both sources, in percentage points with Tango's 95%
    intervals; the colours are centred at 0. `of`: by default the first aligned source. Raises
    UserError if there is no such source, no other one, or the sources were attacked differently.
    """
    of = of or next((name for name, result in found.items() if result.aligned), "")
    if of not in found or len(found) < 2:
        raise UserError(
            f"The difference view needs an aligned source{f', not {of}' if of else ''}, and one"
            " more to compare it with."
        )
    ours, rest = found[of], {name: result for name, result in found.items() if name != of}
    if any(_protocol(result) != _protocol(ours) for result in rest.values()):
        raise UserError(
            "These sources were attacked differently: measure all with the same attack, ε, seed"
            " and number of images."
        )
    labels, shared = _labels(found, b), set(_targets(rest))
    cells = {
        labels[target]: {name: _moved(ours, theirs, target) for name, theirs in rest.items()}
        for target in ours.targets
        if target in shared
    }
    # the colour scale spans the intervals, so that undecided differences are pale
    shown = (cell for row in cells.values() for cell in row.values() if cell.n > 0)
    limit = max([FAINT, *(max(-cell.low, cell.high) for cell in shown)])
    said = " ".join(_against(name, [row[name] for row in cells.values()]) for name in rest)
    return finish(
        _matrix(
            (f"{of} compared with each other source", "difference in error, percentage points"),
            cells,
            f"{of} minus",
            template,
            {"colorscale": "RdBu_r", "zmid": 0, "zmin": -limit, "zmax": limit},
        ),
        "Matrix: the difference of transfer errors, around zero.",
        _meta(ours),
        said,
        f"Compared on the {_span(cells)} images that qualify for both, with Tango's 95%"
        f" intervals. Attack: {_attack(ours)}, seed {ours.meta['seed']}. One source network says"
        " little about a method.",
    )


def _span(cells: Mapping[str, Mapping[str, Cell]]) -> str:
    counts = [cell.n for row in cells.values() for cell in row.values() if cell.n >= 0]
    return f"{min(counts, default=0)} to {max(counts, default=0)}"


def _moved(ours: Transfer, theirs: Transfer, target: str) -> Cell:
    """The cell of a target's error on images of `ours` minus that on `theirs`, in points."""
    if target not in theirs.targets:
        return Cell()
    at, other = ours.targets.index(target), theirs.targets.index(target)
    both = ours.qualified[at] & theirs.qualified[other]
    n, only = int(both.sum()), int((both & ours.wrong[at] & ~theirs.wrong[other]).sum())
    less = int((both & ~ours.wrong[at] & theirs.wrong[other]).sum())
    if not n:
        return Cell("n = 0", 0)
    moved, (low, high) = 100 * (only - less) / n, (100 * end for end in tango(only, less, n))
    return Cell(f"{moved:+.0f}<br>[{low:+.0f}, {high:+.0f}]<br>n = {n}", n, moved, low, high)


def _against(name: str, cells: Sequence[Cell]) -> str:
    """In words: on how many targets the error is clearly higher or lower than against `name`."""
    counts = [cell.n for cell in cells if cell.n >= 0]
    higher, lower = sum(cell.low > 0 for cell in cells), sum(cell.high < 0 for cell in cells)
    empty = counts.count(0)
    moved = (
        f"the error is higher on {higher} of {len(counts)} targets, lower on {lower}."
        if higher or lower
        else f"no difference shown on {len(counts) - empty} of {len(counts)} targets."
    )
    return f"Against {name} {moved}" + (f" On {empty} no image qualifies." if empty else "")


def alignment(
    result: Fooled, *, b: str = "", b_name: str = "B", template: str = LIGHT
) -> go.Figure:
    """Draw by how many points the share of images that fool each target changes if attacked
    on an aligned copy, or a control's copy, instead of the source; with Tango's 95% intervals. `b`:
    the run id of B (empty: no bar), `b_name`: its name. Raises UserError if there is no copy.
    """
    shown = dict(zip(result.models, result.meta["shown"], strict=True))
    copies = {shown[run]["target"]: run for run in result.sources[1:]}
    if not copies:
        raise UserError(
            "This network has no aligned copy to compare it with: train one on the Train page."
        )
    bars, colour = targets(result, b, b_name), COLOURS[template]
    figure = blank(
        template,
        "What does alignment change?",
        height=150 + 64 * len(bars),
        xaxis={"title": "share fooled: change in percentage points", "zeroline": False},
        yaxis={"range": [len(bars) - 0.5, -0.5], "zeroline": False, "tickvals": [*range(len(bars))]}
        | {"ticktext": [_wrapped(bar.name) for bar in bars], "showgrid": False},
    )
    figure.add_vline(x=0, line={"color": colour["faint"], "width": 2})
    said = list[str]()
    for place, target in enumerate(name for name in LEARNED if name in copies):
        found = [moved(result, bar, copies[target]) for bar in bars]
        middle = [100 * each[0] for each in found]
        figure.add_scatter(
            x=middle,
            y=[at + 0.22 * (place - 1) for at in range(len(bars))],
            mode="markers",
            name=LEARNED[target],
            marker={
                "size": 11,
                "symbol": ("circle", "square", "diamond")[place],
                "color": colour["text" if target == "witness_soft" else "faint"],
            },
            error_x={
                "array": [100 * each[2] - at for each, at in zip(found, middle, strict=True)],
                "arrayminus": [at - 100 * each[1] for each, at in zip(found, middle, strict=True)],
                "thickness": 2,
            },
            hovertemplate="%{x:+.1f} points<extra>" + LEARNED[target] + "</extra>",
        )
        unseen = [each for bar, each in zip(bars, found, strict=True) if bar.run]
        higher, lower = sum(low > 0 for _, low, _, _ in unseen), sum(e[2] < 0 for e in unseen)
        said.append(_toward(LEARNED[target], higher, lower, len(unseen)))
    return finish(
        figure,
        "Dots with intervals: the change of the share fooled, for each target.",
        result,
        " ".join(said),
        f"Unseen networks took no part in the alignment. n = {result.n} test images,"
        f" {_attack(result)}. Intervals are Tango's, for the same images before and after. The"
        " controls trained for as many epochs. One source network says little about a method.",
        interval="bars: 95% intervals (Tango)",
    )


def _toward(learned: str, higher: int, lower: int, count: int) -> str:
    """In words: after fine-tuning to the labels `learned`, `higher` of the `count` networks without
    a part in the alignment are fooled more often, and `lower` less often.
    """
    if not higher and not lower:
        return f"After {learned}: no difference shown on any unseen network." if count else ""
    most, several = ("more", higher) if higher else ("less", lower)
    verb = "is" if several == 1 else "are"
    rest = f", {lower} less often" if higher and lower else ""
    return (
        f"After {learned}, {several} of {count} unseen networks {verb} fooled {most} often{rest}."
    )


def prediction_kl(result: Transfer, *, template: str = LIGHT) -> go.Figure:
    """Draw a matrix of how far apart the networks' softmax outputs for clean images are: mean
    KL(row ‖ column), in nats.
    """
    labels, count, n = result.meta["labels"], len(result.targets), result.meta["n"]
    roles = {0: "source", count + 1: "before", count + 2: "witness"}
    kl = np.maximum(result.kl, 0)
    figure = _matrix(
        ("How similar are the networks' outputs?", "mean KL in nats"),
        {
            roles.get(at, f"{at} {str(labels[at]).replace(' seed ', ' s')}"): {
                roles.get(to, str(to)): Cell(f"{value:.2f}", n, value)
                for to, value in enumerate(row)
            }
            for at, row in enumerate(kl)
        },
        "from the row's outputs to",
        template,
        {"colorscale": "Cividis", "zmin": 0, "zmax": max(ALIKE, float(kl.max()))},
    )
    far = sorted(range(1, count + 1), key=lambda at: float(kl[at, 0]))
    of_targets = (
        f"Nearest to the source's outputs are those of {labels[far[0]]} (KL"
        f" {kl[far[0], 0]:.3f}). Farthest are those of {labels[far[-1]]} ({kl[far[-1], 0]:.3f})."
        if count > 1
        else f"From the outputs of {labels[1]} to the source's, the KL is {kl[1, 0]:.3f}."
    )
    return finish(
        figure.update_layout(height=170 + 52 * len(kl)).update_traces(textfont_size=11),
        "Matrix: the mean KL divergence between the outputs of any two networks.",
        _meta(result),
        f"From the witness's outputs to the source's, the KL is {kl[-1, -2]:.3f} before the"
        f" alignment and {kl[-1, 0]:.3f} after. On these {n} images the source comes nearer to"
        f" {sum(bool(kl[at, 0] < kl[at, -2]) for at in far)} of {count} unseen targets."
        if result.aligned
        else of_targets,
        f"The mean over {n} untouched images; 0 means the same outputs.",
    )


def _matrix(
    titles: tuple[str, str],
    cells: Mapping[str, Mapping[str, Cell]],
    below: str,
    template: str,
    colours: dict[str, Any],
) -> go.Figure:
    """Draw a heat map of `cells`, by row and column name, with the cells' texts, narrow enough for
    a phone. `titles`: (title, subtitle); `below`: title of the columns; `colours`: colour scale.
    """
    rows, columns = (
        [_wrapped(name) for name in names] for names in (cells, next(iter(cells.values()), {}))
    )
    grid = [list(row.values()) for row in cells.values()]
    figure = blank(
        template,
        *titles,
        height=170 + 78 * len(rows),
        margin={"l": 8, "r": 8, "t": 80, "b": 84},
        xaxis=_axis(columns, [-0.5, len(columns) - 0.5]) | {"title": below},
        yaxis=_axis(rows, [len(rows) - 0.5, -0.5]),
    )
    figure.add_heatmap(
        z=np.array([[cell.value for cell in row] for row in grid]),
        x=columns,
        y=rows,
        text=[[cell.text for cell in row] for row in grid],
        texttemplate="%{text}",
        textfont={"size": 12},
        hovertemplate="%{y}, %{x}: %{text}<extra></extra>",
        xgap=2,
        ygap=2,
        hoverongaps=True,
        showscale=False,
        **colours,
    )
    _grey(figure, grid, template)
    return figure.update_layout(
        annotations=[
            {
                "x": to,
                "y": at,
                "text": cell.text,
                "showarrow": False,
                "font": {"color": COLOURS[template]["text"], "size": 12},
                "xref": "x",
                "yref": "y",
            }
            for at, row in enumerate(grid)
            for to, cell in enumerate(row)
            if math.isnan(cell.value)  # Plotly writes nothing where there is no number
        ]
    )


def _grey(figure: go.Figure, grid: list[list[Cell]], template: str) -> None:
    """Cover the cells of 1 to `FAINT_N` − 1 images with grey, and write their texts on it."""
    few = [[0 < cell.n < FAINT_N for cell in row] for row in grid]
    if np.any(few):
        grey, text = COLOURS[template]["grid"], COLOURS[template]["text"]
        figure.add_trace(
            figure.data[0].to_plotly_json()
            | {"name": f"fewer than {FAINT_N} images"}
            | {"z": np.where(few, 1.0, math.nan), "colorscale": [[0, grey], [1, grey]]}
            | {"text": np.where(few, [[cell.text for cell in row] for row in grid], "").tolist()}
            | {"textfont": {"size": 12, "color": text}, "hoverinfo": "skip", "zmid": None}
        )


def _axis(names: list[str], ends: list[float]) -> JSON:
    """A category axis with explicit order and range, because Plotly derives none from a matrix
    without numbers.
    """
    return {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": names,
        "range": ends,
        "tickvals": [*range(len(names))],
        "ticktext": names,
        "tickfont": {"size": 12},
        "ticks": "",
        "showgrid": False,
    }


def _wrapped(name: str) -> str:
    """The name in lines of at most `WIDTH` letters if words allow; model_alignment as `aligned`."""
    return "<br>".join(
        textwrap.wrap(
            name.replace("model_alignment", "aligned"),
            WIDTH,
            break_long_words=False,
            break_on_hyphens=False,
        )
    )


def _targets(found: Mapping[str, Transfer]) -> list[str]:
    """The run ids of all targets, in order of appearance."""
    return list(dict.fromkeys(target for result in found.values() for target in result.targets))


def _labels(found: Mapping[str, Transfer], b: str) -> dict[str, str]:
    """Each network's printed name by run id. The name of network B starts with "B "; equal names
    get the last four letters of their run ids.
    """
    out = {
        run_id: str(label)
        for result in found.values()
        for run_id, label in zip(result.models, result.meta["labels"], strict=True)
    }
    return {  # Plotly merges rows of the same name
        run_id: ("B " if run_id == b else "")
        + label
        + (f" {run_id[-4:]}" if list(out.values()).count(label) > 1 else "")
        for run_id, label in out.items()
    }


def _attack(result: Transfer | Fooled) -> str:
    return (
        f"{attack_name(result.meta['attack'] | {'step_size': None})}, ε ="
        f" {eps_text(result.meta['eps'])}"
    )


def _meta(result: Transfer) -> JSON:
    """A result's metadata for a figure, without the measured seconds, which differ from one
    measurement to the next.
    """
    return {name: value for name, value in result.meta.items() if name != "seconds"}


def _protocol(result: Transfer) -> list[object]:
    return [result.meta[name] for name in ("attack", "eps", "seed", "n", "data")]
