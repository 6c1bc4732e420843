"""Generates the table in docs/speed.md and `RESULTS.md` from the JSON files of the benchmarks;
neither is edited by hand.
"""

from __future__ import annotations

import ast
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Outcome
from robustviz.runs.folder import write_file

HERE = Path(__file__).resolve().parent
SPEED, RESULTS = HERE.parent / "docs" / "speed.md", HERE / "RESULTS.md"
MARKS = "<!-- bench -->", "<!-- /bench -->"
# by the values of `harness.kind`
DEVICES = {"cpu": "On a CPU with bf16", "cpu-fp32": "On a CPU without bf16", "cuda": "On a GPU"}
NONE = "Nothing has been measured yet: `make bench`."
NO_GPU = (
    "Nothing has been measured on a GPU yet; `make gpu-check` on a machine with a GPU fills in this"
    " table."
)

Items = dict[str, dict[str, Any]]


def items() -> dict[str, str]:
    """The names of the modules by item: b01_pgd is B1."""
    return {f"B{int(path.name[1:3])}": path.stem for path in sorted(HERE.glob("b[0-9][0-9]_*.py"))}


def measured(folder: Path = HERE / "results") -> dict[str, Items]:
    """The saved results, by kind of machine and item, in the order of the items."""
    found = {
        device: json.loads(path.read_text(encoding="utf-8"))["items"]
        for device in DEVICES
        if (path := folder / f"{device}.json").exists()
    }
    return {
        device: {key: kept[key] for key in items() if key in kept} for device, kept in found.items()
    }


def write(found: dict[str, Items], page: Path = SPEED, results: Path = RESULTS) -> None:
    """Write the results `found` into both files."""
    before, rest = page.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    write_file(page, f"{before}{MARKS[0]}\n{summary(found)}\n{MARKS[1]}{after}".encode())
    write_file(results, full(found).encode())


def summary(found: dict[str, Items]) -> str:
    """The table for docs/speed.md, as Markdown: one row for each item.

    It has the range of the ratios, and what fell short of what was wanted.
    """
    parts = []
    for device, kept in found.items():
        lines = [
            f"{DEVICES[device]}. {_machines(kept)}",
            "",
            "| | benchmark | peers take | wanted | result as good? |",
            "|:--|:--|--:|:--|:--|",
        ]
        for key, item in kept.items():
            races = _races(item)
            lines.append(
                f"| {key} | {_title(key)} | {_taken(races)} | {_short(races)} | {_gates(races)} |"
            )
        parts.append("\n".join(lines))
    return "\n\n".join([*(parts or [NONE]), *([] if "cuda" in found else [NO_GPU])])


def full(found: dict[str, Items]) -> str:
    """The text of RESULTS.md: every race with all its times."""
    parts = [
        "# Every race",
        (
            "Written by `make bench`; `harness.py` describes the method. A ratio is the time of a"
            f" peer divided by that of `{harness.OURS}`."
        ),
    ]
    for device, kept in found.items():
        parts.append(f"## {DEVICES[device]}")
        for key, item in kept.items():
            parts.append(
                f"### {key}: {_title(key)}\n\n`make bench ONLY={key}` on"
                f" {_machine(item['machine'])}."
            )
            parts += map(harness.told, _races(item))
    return "\n\n".join(parts if found else [*parts, NONE]) + "\n"


def _races(item: dict[str, Any]) -> list[Outcome]:
    return [Outcome.of_json(one) for one in item["outcomes"]]


def _title(key: str) -> str:
    """The title of an item: the first paragraph of its module's docstring, without the key."""
    text = (HERE / f"{items()[key]}.py").read_text(encoding="utf-8")
    said = (
        " ".join((ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0].split())
        .removeprefix(f"{key}: ")
        .removesuffix(".")
    )
    return said[:1].upper() + said[1:]


def _machine(facts: dict[str, Any]) -> str:
    threads = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
    return ", ".join(
        [
            facts["device"],
            threads,
            f"torch {facts['torch']}",
            f"Python {facts['python']}",
            *filter(None, [facts.get("date")]),
        ]
    )


def _machines(kept: Items) -> str:
    """Which machine measured which items, one sentence for each machine."""
    where: dict[str, list[str]] = {}
    for key, item in kept.items():
        where.setdefault(_machine(item["machine"]), []).append(key)
    return " ".join(f"{', '.join(keys)}: {machine}." for machine, keys in where.items())


def _taken(races: Sequence[Outcome]) -> str:
    """How many times as long as ours the peers take; our own times if there are no peers. In races
    that are judged by a share of a hardware limit, the first peer, which most people use, is given
    separately.
    """
    first = {one.times[1].name for one in races if one.share and one.times[1:]}
    parts = []
    for names, ahead in ((first, True), (first, False)) if first else ((first, False),):
        ratios = [
            one.ratio(peer)[0]
            for one in races
            for peer in one.times[1:]
            if (peer.name in names) == ahead
        ]
        span = (
            " to ".join(dict.fromkeys(f"{ratio:.2g}×" for ratio in (min(ratios), max(ratios))))
            if ratios
            else ""
        )
        parts += (
            [f"{', '.join(sorted(names))} {span}" if ahead else f"others {span}" if first else span]
            if span
            else []
        )
    return "; ".join(parts) or "; ".join(
        f"{one.what}, {harness.spell(one.ours.median)}" for one in races
    )


def _shares(races: Sequence[Outcome]) -> str:
    """For each hardware limit: the median over the races of the share that ours reaches, and
    whether it is as high as wanted.
    """
    parts = []
    for ceiling in dict.fromkeys(one.share.ceiling for one in races if one.share):
        found = [one.share for one in races if one.share and one.share.ceiling == ceiling]
        reached, wanted = statistics.median(one.reached for one in found), found[0].wanted
        said = f"{reached:.0%} of {ceiling} ({_median(len(found))}, wanted {wanted:.0%})"
        parts.append(said if reached >= wanted else f"**missed**: {said}")
    return "; ".join(parts)


def _median(count: int) -> str:
    return "one race" if count == 1 else f"median of {count} races"


def _short(races: Sequence[Outcome]) -> str:
    """The shares of hardware limits if races are judged by those; else the wanted ratios that were
    missed, the worst one for each peer.
    """
    if shares := _shares(races):
        return shares
    wanted = [(one, peer) for one in races for peer in one.times[1:] if peer.name in one.wanted]
    worst: dict[str, tuple[float, float]] = {}
    for one, peer in wanted:
        if one.missed(peer):
            reached = max(one.ratio(peer)), one.wanted[peer.name]
            worst[peer.name] = min(
                worst.get(peer.name, reached), reached, key=lambda pair: pair[0] / pair[1]
            )
    missed = sum(one.missed(peer) for one, peer in wanted)
    if not missed:
        return "reached" if wanted else ""
    said = ", ".join(f"{name} {ratio:.2f}× of {least:g}×" for name, (ratio, least) in worst.items())
    return f"**{missed} of {len(wanted)} missed**: {said}"


def _gates(races: Sequence[Outcome]) -> str:
    """The gates that failed, or that all passed."""
    gates = [gate for one in races for gate in one.gates]
    failed = [gate.says for gate in gates if not gate.held]
    return f"**no**: {'; '.join(failed)}" if failed else "yes" if gates else ""
