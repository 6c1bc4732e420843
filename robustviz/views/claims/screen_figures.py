"""The Claims page's first screen: a row for each claim, with an interval for each of its
expectations. No torch, no Plotly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from robustviz.views.claims.result import Found, Row, in_part, whole
from robustviz.views.drawing import Plot
from robustviz.views.screen import Control, Screen

WIDTH, TALL = 320, 15  # pixels: the width of a plot, the height of an interval in it
SPAN = (-4.0, 6.0)  # in units of the smallest difference that counts
SIGNS = {
    "seen here": "✓",
    "not seen here": "✗",
    "cannot tell": "?",
    "cannot tell (ceiling)": "?",
    "not decided": "…",
}
STYLE = """<style>
.claims { display: grid; grid-template-columns: 8.5rem minmax(12rem, 1fr) auto 8rem;
  gap: .1rem 1rem; align-items: center; font-size: .95rem; }
.claims > * { padding: .1rem 0; line-height: 1.2; border-bottom: 1px solid var(--grid);
  height: 100%; align-content: center; box-sizing: border-box; }
.claims .word { font-weight: 600; }
.claims small { display: block; }
.claims .how + * { grid-column: 1; }
.claims .how { grid-column: 2 / -1; font-size: .8rem; text-align: right; }
@container (max-width: 46rem) { .claims { grid-template-columns: 1fr; } .claims > * { border: 0; }
  .claims .how { grid-column: 1; } }
</style>"""
HOW = (
    '<div class="how">solid line: no difference · right of the dashed: as claimed · hollow: too few'
    " seeds</div>"
)


def screen(found: Found, start: int) -> Screen:
    """The first screen. Its slider selects the data set; `start`: the index, in `found.data`, of
    the one that is shown first.
    """
    names = found.data
    cells, moves = [], {}
    for number, claim in enumerate(found.claims):
        per = [found.of(claim, data) for data in names]
        first = next(row for rows in per for row in rows)
        plots, words = [_plot(rows) for rows in per], [_word(rows) for rows in per]
        seen = [_seen(rows) for rows in per]
        moves[f"plot-{number}"] = ("html", plots)
        moves[f"word-{number}"] = ("text", words)
        moves[f"seen-{number}"] = ("text", seen)
        cells.append(
            f"<div><b>{escape(first.label)}</b></div><div>{escape(first.claim)}"
            f'<small class="told" data-move="seen-{number}">{escape(seen[start])}</small></div>'
            f'<div data-move="plot-{number}">{plots[start]}</div>'
            f'<div class="word told" data-move="word-{number}">{escape(words[start])}</div>'
        )
    return Screen(
        answer=[_answer(found, data) for data in names],
        picture=f'{STYLE}<div class="claims">{HOW}{"".join(cells)}</div>',
        alt="A row for each claim: the method, the claim, how far the measured differences lie from"
        " zero, and the verdict.",
        sure=_sure(found),
        control=Control("Data set", names, start, "claims-data"),
        moves=moves,
    )


def _answer(found: Found, data: str) -> str:
    measured = [rows for claim in found.claims if (rows := found.of(claim, data))]
    words = Counter("part" if in_part(rows) else whole(rows) for rows in measured)
    undecided = words["not decided"]
    if undecided == len(measured):
        return f"On {data} no claim can be decided yet: more seeds must be trained."
    unclear = words["cannot tell"] + words["cannot tell (ceiling)"]
    more = f" The runs for the other {undecided} are not finished." if undecided else ""
    return (
        f"On {data}, {words['seen here']} of {len(measured)} claims are seen here in full, and"
        f" {words['part']} in part. Nothing is seen of {words['not seen here']}, and for {unclear}"
        f" these runs cannot tell.{more}"
    )


def _word(rows: Sequence[Row]) -> str:
    """The verdict on a claim, after its sign. If the claim is not decided and nothing of it is seen
    yet, the number of seeds that its expectations have stands there instead.
    """
    if not rows:
        return f"{SIGNS['not decided']} not measured"
    word, seeds = whole(rows), [row.seeds for row in rows]
    if word == "not decided" and not in_part(rows):
        few = dict.fromkeys((min(seeds), max(seeds)))
        seeds_of = "seed" if rows[0].wanted == 1 else "seeds"
        return f"{SIGNS[word]} {' to '.join(map(str, few))} of {rows[0].wanted} {seeds_of}"
    sign = "◐" if in_part(rows) and word != "not decided" else SIGNS[word]
    return f"{sign} {in_part(rows) or word}"


def _seen(rows: Sequence[Row]) -> str:
    """A sentence on what is seen of a claim that is seen in part; empty for any other claim."""
    seen = [row.says for row in rows if row.word == "seen here"]
    return f"Seen: {'; '.join(seen)}." if in_part(rows) else ""


def _plot(rows: Sequence[Row]) -> str:
    """The chart of a claim as SVG: a row for each expectation, with its difference's interval.
    The unit is the smallest difference that counts, and a dashed line is drawn where differences
    begin to count. A value outside the chart is an arrow at its end. Empty if the claim is not
    measured on the data set.
    """
    if not rows:
        return ""
    plot = Plot(WIDTH, TALL * len(rows) + 10, SPAN, (len(rows) - 0.5, -0.5), left=6, right=6, top=0)
    plot.line((0, 0), plot.y, "text", width=1)
    for place, row in enumerate(rows):
        middle, low, high = (row.scaled(each) for each in (row.effect, row.low, row.high))
        counts = -1.0 if row.not_worse else 1.0
        plot.line((counts, counts), (place - 0.5, place + 0.5), "faint", width=1, dash="3 3")
        if math.isnan(middle):
            continue
        if not math.isnan(low) and (high > SPAN[0] and low < SPAN[1]):
            plot.line((_cut(low), _cut(high)), (place, place), "text", width=3)
        if SPAN[0] < middle < SPAN[1]:
            plot.dot(middle, place, "text", radius=5, hollow=math.isnan(low))
        else:
            end, sign = (SPAN[0], "◀") if middle <= SPAN[0] else (SPAN[1], "▶")
            anchor = "start" if end == SPAN[0] else "end"
            plot.text(end, place, sign, anchor=anchor, shift=(0, 5))
    said = "; ".join(f"{row.says}: {row.text}" for row in rows)
    return plot.html(said)


def _cut(value: float) -> float:
    return min(max(value, SPAN[0]), SPAN[1])


def _sure(found: Found) -> list[str]:
    """Sentences on how claims are judged, and on the seeds and pilot runs of each data set.
    They are the same at every position of the slider.
    """
    seeds = {row.data: row.wanted for row in found.rows}
    return [
        "Each claim was fixed before its runs: measure, direction, smallest difference that"
        " counts.",
        "Solid line: no difference. Right of the dashed line, a difference counts as claimed.",
        "An arrow marks a value outside the chart; the table below has the number.",
        "A bar: the interval of the mean difference over seeds, paired by seed.",
        f"Student's t at 95%, corrected for {len(found.claims)} claims (Bonferroni).",
        "A hollow dot has too few seeds for an interval.",
        "A claim is seen here in full if everything that it expects is seen.",
        *(
            f"On {data}, {count} seed{'s' * (count != 1)}:"
            f" {found.pilots.get(data, 'No pilot runs are known.')}"
            for data, count in seeds.items()
        ),
    ]
