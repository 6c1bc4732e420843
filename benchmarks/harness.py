"""How everything here is timed: ours and its peers in one process, in turns, so that a noisy
machine is noisy to all.

A ratio is taken within each round, peer over ours, and its median is reported beside minimum and
median times. What is compared must do the same work: the same weights, images, seeds, ε and steps;
a gate beside each ratio says whether the results are as good as the peer's.
"""

from __future__ import annotations

import gc
import math
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from robustviz.nets.attackable import has_bf16
from robustviz.training.config import default_threads

OURS = "robustviz"


@dataclass(frozen=True)
class Racer:
    """One contestant: `run` does the whole work once. The first one of a race is ours."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Time:
    """Seconds of each round, in order, and of the first call, which compiles and warms up and is
    not among them.
    """

    name: str
    seconds: tuple[float, ...]
    first: float

    @property
    def least(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Gate:
    """Whether the fast result is as good: a sentence with its numbers, and the verdict."""

    says: str
    held: bool


@dataclass(frozen=True)
class Share:
    """How much of a ceiling ours reaches: `reached` and `wanted` as fractions of `ceiling`, e.g.
    "the fp32 GEMM rate".
    """

    reached: float
    wanted: float
    ceiling: str


@dataclass(frozen=True)
class Outcome:
    """One race: `key` of the item ("B1"), what was raced, on what setting, every time, the wanted
    ratio by peer's name, and the share of a ceiling where that is what a race is judged by: the
    median over all races with that ceiling counts.
    """

    key: str
    what: str
    setting: str
    times: tuple[Time, ...]
    wanted: dict[str, float] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    note: str = ""
    share: Share | None = None

    @property
    def ours(self) -> Time:
        return self.times[0]

    def ratio(self, peer: Time) -> tuple[float, float]:
        """(median of the rounds' ratios, ratio of the minima): how many times as long the peer
        takes.
        """
        pairs = zip(peer.seconds, self.ours.seconds, strict=True)
        return (
            statistics.median(theirs / mine for theirs, mine in pairs),
            peer.least / self.ours.least,
        )

    def missed(self, peer: Time) -> bool:
        """Whether a ratio was wanted and neither the rounds' median nor the minima reach it."""
        return max(self.ratio(peer)) < self.wanted.get(peer.name, 0.0)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> Outcome:
        """What `to_json` wrote down."""
        times = tuple(
            Time(one["name"], tuple(one["seconds"]), one["first"]) for one in found["times"]
        )
        gates = tuple(Gate(**one) for one in found["gates"])
        share = Share(**found["share"]) if found.get("share") else None
        return cls(
            found["key"],
            found["what"],
            found["setting"],
            times,
            found["wanted"],
            gates,
            found["note"],
            share,
        )

    def to_json(self) -> dict[str, Any]:
        ratios = {
            peer.name: [round(value, 3) for value in self.ratio(peer)] for peer in self.times[1:]
        }
        return asdict(self) | {"ratios": ratios}


def race(racers: Sequence[Racer], rounds: int, device: str = "cpu") -> tuple[Time, ...]:
    """Everybody once to warm up, then `rounds` rounds in turns; the order turns round in every
    second one.
    """
    first = [_timed(racer.run, device) for racer in racers]
    seconds: list[list[float]] = [[] for _ in racers]
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            order = range(len(racers)) if number % 2 == 0 else reversed(range(len(racers)))
            for at in order:
                seconds[at].append(_timed(racers[at].run, device))
    finally:
        gc.enable()
    return tuple(
        Time(racer.name, tuple(spent), once)
        for racer, spent, once in zip(racers, seconds, first, strict=True)
    )


def _timed(run: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def kind() -> str:
    """The kind of this machine, by which results are kept: "cuda", "cpu", or "cpu-fp32" for a
    processor without bf16.
    """
    return "cuda" if torch.cuda.is_available() else "cpu" if has_bf16("cpu") else "cpu-fp32"


def machine() -> dict[str, Any]:
    """What the times were taken on."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{_processor()}, CPU",
        "threads": default_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """Its name, and what torch may use of it: virtual machines call very different processors by
    one name.
    """
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(
                line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
            )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return (
        f"{name} with"
        f" {torch.backends.cpu.get_cpu_capability()}{' and bf16' if has_bf16('cpu') else ''}"
    )


def told(one: Outcome) -> str:
    """A race in Markdown: a line for each contestant, the gates, the note."""
    lines = [
        f"**{one.what}**, {one.setting}",
        "",
        "| | median | least | first call | ratio | of the least | wanted |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for time_ in one.times:
        cells = [time_.name, spell(time_.median), spell(time_.least), spell(time_.first)]
        if time_ is one.ours:
            cells += ["", "", ""]
        else:
            wanted = one.wanted.get(time_.name)
            cells += [f"{ratio:.2f}×" for ratio in one.ratio(time_)]
            cells.append(
                "" if wanted is None else f"{wanted:g}×{' **missed**' if one.missed(time_) else ''}"
            )
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    lines += [f"- {'held' if gate.held else '**not held**'}: {gate.says}" for gate in one.gates]
    if one.share:
        lines.append(
            f"- {one.share.reached:.0%} of {one.share.ceiling}; wanted of the median over all"
            f" races: {one.share.wanted:.0%}"
        )
    if one.note:
        lines.append(f"- {one.note}")
    return "\n".join(lines).rstrip()


def spell(seconds: float) -> str:
    """A time as people read it."""
    if not math.isfinite(seconds):
        return "–"
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1000 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.3g} µs"
    )
