"""Measures run times: robustviz and its peers take turns in one process, so that noise of the
machine affects all alike, and do the same work: same weights, images, seeds, ε and steps. A ratio,
peer over ours, is computed within each round, and the median is reported. A gate beside each ratio
tests whether our results are as good as the peer's.
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
    """One competitor in a race: `run` does the whole work once. The first one of a race is ours."""

    name: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Time:
    """The seconds of each round, in order, and of the first call.

    The first call includes compiling and warming up, so it is not one of the rounds.
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
    """A test whether our fast result is as good as the peer's.

    `says` is a sentence with the numbers, `held` whether the test passed.
    """

    says: str
    held: bool


@dataclass(frozen=True)
class Share:
    """How much of a hardware limit ours reaches.

    `reached` and `wanted` are fractions of `ceiling`, for example "the fp32 GEMM rate".
    """

    reached: float
    wanted: float
    ceiling: str


@dataclass(frozen=True)
class Outcome:
    """The result of one race.

    `key`: the item ("B1"); `what`: what was measured; `setting`: on which network and images;
    `times`: all times, ours first; `wanted`: the ratio to reach, by the peer's name; `gates`: the
    quality tests; `share`: the share of a hardware limit if the race is judged by it (then the
    median over all races with this limit counts).
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
        """How many times as long as ours the peer takes.

        Returns the median of the ratios of the rounds, and the ratio of the minimum times.
        """
        pairs = zip(peer.seconds, self.ours.seconds, strict=True)
        return (
            statistics.median(theirs / mine for theirs, mine in pairs),
            peer.least / self.ours.least,
        )

    def missed(self, peer: Time) -> bool:
        """Whether a ratio was wanted that neither the median of the rounds nor the minima reach."""
        return max(self.ratio(peer)) < self.wanted.get(peer.name, 0.0)

    @classmethod
    def of_json(cls, found: dict[str, Any]) -> Outcome:
        """The outcome that `to_json` encoded."""
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
    """Call each competitor once to warm up, then time `rounds` rounds in which each runs once.

    The order is reversed in every second round.
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
    """The kind of this machine, after which its results file is named.

    It is "cuda", "cpu", or "cpu-fp32" for a processor without bf16.
    """
    return "cuda" if torch.cuda.is_available() else "cpu" if has_bf16("cpu") else "cpu-fp32"


def machine() -> dict[str, Any]:
    """A description of the machine and the software on which the times were measured."""
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
    """The processor's name and the instructions that torch can use, because virtual machines give
    very different processors the same name.
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
    """An outcome in Markdown: one row for each competitor, then the gates and the note."""
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
    """A time as text with a suitable unit."""
    if not math.isfinite(seconds):
        return "–"
    return (
        f"{seconds:.3g} s"
        if seconds >= 1
        else f"{1000 * seconds:.3g} ms"
        if seconds >= 1e-3
        else f"{1e6 * seconds:.3g} µs"
    )
