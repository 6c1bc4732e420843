"""B18: a class on the tour: forty phones at one server vote and move the slider. Is every vote
counted once, and how long does an answer take?

Each vote is sent twice. Every fourth phone goes to sleep and returns with a new session and its old
cookie.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks.b12_app import Server, Value, Visitor, app, p95
from benchmarks.harness import OURS, Gate, Outcome, Time
from robustviz.ui import networks
from robustviz.ui.votes import COOKIE
from robustviz.views.tour.steps import DATA, steps

PHONES, MOVES = 40, 3  # MOVES: slider moves after each guess
STEPS = len(steps(*networks.defaults(networks.on(DATA))))
PAUSE = 4.0  # seconds between an answer and the next touch, on average
WAIT = 300.0  # milliseconds within which 95% of the answers should come
GUESS = "That is my guess"


class Phone(Visitor):
    """A student's phone on the tour.

    It polls the votes of the class as often as the page tells it to, also while nobody touches it.
    """

    patience = 60.0

    def __init__(self, server: Server, cookie: str, step: int = 1) -> None:
        self.cookie = cookie
        self.labels: dict[str, str] = {}  # widget ids by the button's label, or "question"
        self.options: list[str] = []
        self.places = 0  # number of positions of the slider
        self.polls: dict[str, float] = {}  # seconds between two automatic runs of a fragment
        self.text: list[str] = []
        self.slider, self.guessed = "", ""
        self.asked: list[float] = []  # seconds that each poll took
        super().__init__(server, "tour", f"step={step}")

    def _read(self, messages: list[ForwardMsg], fragment: str) -> None:
        super()._read(messages, fragment)
        if not fragment:
            self.labels, self.options, self.polls, self.slider = {}, [], {}, ""
        self.text = []
        for sent in messages:
            message = self.kept[sent.ref_hash] if sent.WhichOneof("type") == "ref_hash" else sent
            if message.WhichOneof("type") == "auto_rerun":
                self.polls[message.auto_rerun.fragment_id] = message.auto_rerun.interval
            element = message.delta.new_element
            kind = element.WhichOneof("type")
            if kind == "button":
                self.labels[element.button.label] = element.button.id
            elif kind == "radio":
                self.labels["question"] = element.radio.id
                self.options = list(element.radio.options)
            elif kind == "markdown":
                self.text.append(element.markdown.body)
            elif kind == "bidi_component":
                data = json.loads(element.bidi_component.json or "null") or {}
                if control := data.get("control"):
                    self.slider, self.places = element.bidi_component.id, len(control["values"])
            elif kind in ("exception", "alert"):
                raise RuntimeError(f"The page complains: {element}")

    def touch(self, **values: Value) -> float:
        """Use widgets named by their labels; returns the seconds until the answer is complete."""
        self.widgets |= self.labels
        return self.rerun(**values)

    def vote(self, option: int) -> list[float]:
        """Send a guess twice, as if the first message had been lost; the seconds of both."""
        self.guessed = self.options[option]
        said: dict[str, Value] = {"question": self.guessed, GUESS: True}
        ids = dict(self.labels)
        first = self.touch(**said)
        self.widgets |= ids
        return [first, self.rerun(**said)]

    def move(self, at: int) -> float:
        """Move the slider of the page to position `at`."""
        self.widgets["slider"] = self.slider
        return self.rerun(slider={"at": at})

    def look(self, seconds: float) -> None:
        """Do nothing but poll for some seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            every = min(self.polls.values(), default=0.0)
            time.sleep(min(left, every or left))
            if every and end - time.monotonic() > 0:
                for fragment in list(self.polls):
                    self.asked.append(self.rerun(fragment))

    def told(self) -> dict[str, int]:
        """The votes of the class as the page shows them, by option."""
        line = next((one for one in self.text if one.startswith("The class:")), "")
        found = re.findall(r"(\d+) (?:of (\d+) )?(?:says? )\*([^*]+)\*", line)
        counted = {option: int(count) for count, _, option in found}
        assert not found or sum(counted.values()) == int(found[0][1]), line
        return counted


def cookie(server: Server) -> str:
    """The cookie that the server gives to a browser without one."""
    asking = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    asking.request("GET", "/_stcore/health")
    given = asking.getresponse().getheader("Set-Cookie", "")
    asking.close()
    found = re.search(rf"{COOKIE}=[^;]+", given)
    if found is None:
        raise RuntimeError(f"The server gave no cookie, but: {given}")
    return found[0]


class Held:
    """What was measured in a class.

    It has the seconds of each vote, move and poll; the votes `cast` and those `told` by the page at
    the end, by step and option; how many phones slept; and the errors.
    """

    def __init__(self) -> None:
        self.votes, self.moves, self.polls = list[float](), list[float](), list[float]()
        self.cast: dict[int, Counter[str]] = {step: Counter() for step in range(1, STEPS + 1)}
        self.told: dict[int, dict[str, int]] = {}
        self.slept, self.failed = 0, list[str]()


def hold(server: Server, phones: int, pause: float, seed: int = 0) -> Held:
    """Let a number of phones go through the tour at once.

    `pause` is the mean number of seconds between two touches.
    """
    held, lock, doors = Held(), threading.Lock(), threading.Barrier(phones)

    def one(number: int) -> None:
        chance, known = random.Random(1000 * seed + number), cookie(server)
        phone = Phone(server, known)
        doors.wait()
        try:
            for step in range(1, STEPS + 1):
                phone.look(chance.uniform(0, 2 * pause))
                option = chance.randrange(len(phone.options))
                waited = phone.vote(option)
                said = phone.guessed
                with lock:
                    held.votes += waited
                    held.cast[step][said] += 1
                for _ in range(MOVES if phone.slider else 0):
                    phone.look(chance.uniform(0, 2 * pause))
                    moved = phone.move(chance.randrange(phone.places))
                    with lock:
                        held.moves.append(moved)
                if number % 4 == 0 and step == STEPS // 2:
                    held.polls += phone.asked
                    phone.leave()
                    phone = Phone(server, known, step)
                    woken = " ".join(phone.text)
                    if f"You said *{said}*" not in woken or phone.options:
                        raise RuntimeError(f"It slept, returned, and was told: {woken}")
                    with lock:
                        held.slept += 1
                if step < STEPS:
                    phone.touch(**{"Next step": True})
            held.polls += phone.asked
        except Exception as error:
            with lock:
                held.failed.append(f"phone {number}: {type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(Exception):
                phone.leave()

    with ThreadPoolExecutor(phones) as class_:
        list(class_.map(one, range(phones)))
    late = cookie(server)
    for step in held.cast:  # a late phone sees the votes of the class after its own guess
        phone = Phone(server, late, step)
        held.cast[step][phone.options[0]] += 1
        phone.vote(0)
        held.told[step] = phone.told()
        phone.leave()
    return held


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """The class goes through the tour once, whatever `rounds` is."""
    if device == "cpu":
        yield of_class()


def of_class() -> Outcome:
    """Forty phones, with a test whether each vote was counted once."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        home = Path(folder) / "runs"
        home.mkdir()
        server = app(home, ROBUSTVIZ_MODE="class")
        ending.callback(server.end)
        first = Phone(server, cookie(server))  # fills the server's caches with the tour's steps
        first.leave()
        held = hold(server, PHONES, PAUSE)
    right = {step: held.told.get(step) == dict(cast) for step, cast in held.cast.items()}
    sent = sum(map(sum, (cast.values() for cast in held.cast.values())))
    kept = held.votes + held.moves
    gates = (
        Gate(
            f"each of {sent} votes counted once, though sent twice, {held.slept} phones having"
            f" slept and returned; {len(held.failed)} phones failed"
            + "".join(f"; {fault[:200]}" for fault in held.failed[:3]),
            all(right.values()) and not held.failed,
        ),
        Gate(
            f"p95 {p95(kept):.0f} ms ≤ {WAIT:.0f} ms over {len(kept)} answers: {len(held.votes)}"
            f" votes {p95(held.votes):.0f} ms, {len(held.moves)} moves {p95(held.moves):.0f} ms;"
            f" beside them {len(held.polls)} looks at the votes, {p95(held.polls):.0f} ms",
            p95(kept) <= WAIT,
        ),
    )
    return Outcome(
        "B18",
        "a class on the tour",
        f"{PHONES} phones, {STEPS} steps, {PAUSE:g} s between two touches",
        (Time(OURS, tuple(kept), first.first),),
        {},
        gates,
        f"Load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, including other processes;"
        f" {time.strftime('%H:%M')}.",
    )
