"""B17: a class at one server: forty sessions during a training. Does everybody get an answer, how
long do cached answers take, and does memory grow?

The sessions are WebSockets to one Streamlit process. Three quarters of the class move the slider
and look at other images, which is cached; the others try everything. Between two clicks a person
waits for some seconds.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

from benchmarks.b12_app import BARE, SETTINGS, Server, Visitor, _end, app, p95
from benchmarks.harness import OURS, Gate, Outcome, Time
from robustviz.runs import queue
from robustviz.training.config import TrainConfig
from tests.sessions import Person, crowd

SESSIONS, EACH = 40, 25
LOOKING = 0.75  # the share of people who only ask for cached results
PAUSE = 6.0  # seconds between an answer and the next click, on average
WAIT, MEMORY = 1.0, 1200.0  # limits: seconds, MiB
GROWTH = 1.05  # limit for the maximum memory of the second half, relative to the first half


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """The class; `rounds` is the number of interactions of each person."""
    if device == "cpu":
        yield of_class(rounds or EACH)


def of_memory(held: Sequence[float]) -> tuple[Gate, Gate]:
    """The limit on the server's memory and on its growth, from measurements in MiB in turn.

    The largest value of the second half is compared with the largest of the first half.
    """
    half = len(held) // 2
    before, after = max(held[:half]), max(held[half:])
    return (
        Gate(f"at most {max(held):.0f} MiB ≤ {MEMORY:.0f} MiB", max(held) <= MEMORY),
        Gate(
            f"memory at most {before:.0f} MiB in the first half and {after:.0f} MiB in the second"
            f" (wanted: at most {GROWTH - 1:.0%} more)",
            after <= GROWTH * before,
        ),
    )


def of_class(each: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        home, bare = Path(folder) / "runs", Path(folder) / "bare"
        home.mkdir()
        (bare / ".streamlit").mkdir(parents=True)
        (bare / "bare.py").write_text(BARE)
        (bare / ".streamlit" / "config.toml").write_text(SETTINGS)
        server = app(home, ROBUSTVIZ_MODE="class")
        ending.callback(server.end)
        flags = ["--server.headless=true", "--server.address=127.0.0.1", "--server.port=0"]
        other = Server([sys.executable, "-m", "streamlit", "run", "bare.py", *flags], bare)
        ending.callback(other.end)
        ending.enter_context(mock.patch.dict(os.environ, ROBUSTVIZ_RUNS=str(home)))
        ending.enter_context(mock.patch.object(Person, "patience", 60.0))  # seconds of silence
        run = queue.submit(TrainConfig(data="shapes", epochs=1000, device="cpu"))
        ending.callback(_end, home, run.id)
        over, held, theirs = threading.Event(), list[float](), list[float]()
        visitor = Visitor(other)

        def watch() -> None:
            while not over.wait(1.0):
                held.append(server.memory)
                theirs.append(visitor.rerun())

        watching = threading.Thread(target=watch)
        watching.start()
        found = crowd(server, SESSIONS, each, looking=LOOKING, pause=PAUSE)
        over.set()
        watching.join()
        visitor.leave()
        slow = p95(found.kept) / 1000
        gates = (
            Gate(f"{found}", not found.failed),
            Gate(
                f"p95 {slow:.2f} s ≤ {WAIT:g} s over {len(found.kept)} cached answers (bare"
                f" Streamlit app in between: {p95(theirs) / 1000:.2f} s)",
                slow <= WAIT,
            ),
            *of_memory(held),
        )
        return Outcome(
            "B17",
            "a class at one server",
            f"{SESSIONS} sessions, {found.done} interactions, {PAUSE:g} s between them",
            (Time(OURS, tuple(found.kept), found.kept[0]),),
            {},
            gates,
            f"{len(run.records())} epochs were trained meanwhile; load {os.getloadavg()[0]:.1f} on"
            f" {os.cpu_count()} cores, including other processes; {time.strftime('%H:%M')}.",
        )
