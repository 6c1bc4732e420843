"""Simulates many people at one app without a browser: each is a session over a WebSocket that acts
like a person and reads every answer.

`crowd(server, sessions, interactions)` starts them all at once and returns what went wrong. Nothing
leaves this computer.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks.b12_app import PAGES, Server, Value, Visitor
from robustviz.views import pack

# The queries that an address may have after its page: other data, other networks, another image,
# another attack.
ADDRESSES = (
    "",
    "img=3",
    "data=digits&img=5",
    "img=8&eps=12",
    "data=digits&eps=30&attack=fgsm",
    "img=2&attack=targeted",
    "a=shapes-pgd-at-small-resnet-s0-89b8cc89&b=shapes-standard-small-cnn-s0-67af4565",
    "cam=layer_cam&img=6",
    "cam=grad_cam_plusplus",
    "a=digits-standard-tiny-vit-s0-035ae614&b=digits-part-small-resnet-s0-0d19d5b9",
    "cam=score_cam&cam-control=random&data=digits",
    "map=pca&map-n=100",
    "data=digits&map-also=noise",
    "T=9&state=attacked",
    "contributions-n=50&of=one",
    "steps=3&seed=7",
)
# The same with few small images and few steps, for a test that must be fast.
SMALL = "data=digits&map-n=50&map-steps=3&contributions-n=50&steps=3&transfer-steps=1"
FEW = (SMALL, f"{SMALL}&img=5", f"{SMALL}&cam=grad_cam_plusplus", f"{SMALL}&map=pca")
UNEXPECTED = "Something unexpected happened"
MOST = 40  # How many values of a number input are tried at most.


class Person(Visitor):
    """A session that records errors on the page and missing answers."""

    patience = 600.0

    def __init__(self, server: Server, page: str = "", query: str = "") -> None:
        self.faults: list[str] = []
        # The values that each widget on this page can take.
        self.values: dict[str, list[Value]] = {}
        self.places: dict[str, str] = {}  # The fragment that reruns when a widget changes.
        super().__init__(server, page, query)

    def _read(self, messages: list[ForwardMsg], fragment: str) -> None:
        super()._read(messages, fragment)
        if not fragment:
            self.values, self.places = {}, {}
        seen = {""}
        for sent in messages:
            message = self.kept[sent.ref_hash] if sent.WhichOneof("type") == "ref_hash" else sent
            self._see(message)
            seen.add(message.delta.fragment_id)
        # A fragment inside it that was not drawn again is gone and would never answer.
        if fragment:
            self.fragments = [one for one in self.fragments if one == fragment or one in seen]
            self.values = {
                name: values
                for name, values in self.values.items()
                if self.places[name] in ("", *self.fragments)
            }
            if (
                message.WhichOneof("type") == "script_finished"
                and message.script_finished == ForwardMsg.FINISHED_WITH_COMPILE_ERROR
            ):
                self.faults.append("a script that does not compile")
            element = message.delta.new_element
            if element.WhichOneof("type") == "exception":
                self.faults.append(f"{element.exception.type}: {element.exception.message}")
            if element.WhichOneof("type") == "alert" and UNEXPECTED in element.alert.body:
                self.faults.append(element.alert.body)

    def _see(self, message: ForwardMsg) -> None:
        """Records which widgets a message shows and what they can be set to. Buttons are not
        pressed.
        """
        element = message.delta.new_element
        kind = element.WhichOneof("type") or ""
        values: list[Value] = []
        if kind == "selectbox":
            values = list(element.selectbox.options)
        elif kind == "number_input":
            low, high = element.number_input.min, element.number_input.max
            values = [float(one) for one in range(int(low), int(min(high, low + MOST)) + 1)]
        elif kind == "bidi_component":
            control = json.loads(element.bidi_component.json or "null") or {}
            values = [
                {"at": at} for at in range(len((control.get("control") or {}).get("values", ())))
            ]
        if values and (known := getattr(element, kind).id).startswith("$$ID-"):
            self.values[name := known.split("-", 2)[2]] = values
            self.places[name] = message.delta.fragment_id

    def do_something(self, chance: random.Random) -> float:
        """Moves the first screen's slider, changes an image or a choice, or opens something, if the
        page has it; otherwise reruns the page or a fragment. Returns the seconds until the answer.
        """
        screens = [name for name in self.values if name.startswith("screen-")]
        kinds = [["img"]] * 2 * ("img" in self.values) + [screens] * 3 * bool(screens)
        kinds += [sorted(self.values)] * bool(self.values) + [sorted(self.boxes)] * bool(self.boxes)
        kinds += [[], []]
        if not (names := chance.choice(kinds)):
            return self.rerun(chance.choice(["", *self.fragments]))
        name = chance.choice(names)
        if name in self.values:
            return self.rerun(self.places[name], **{name: chance.choice(self.values[name])})
        return self.rerun(**{name: True})

    def look(self, chance: random.Random) -> float:
        """Moves the first screen's slider or goes to another of the shipped pairs' images, as most
        people in a class do. All of this is cached. Returns the seconds until the answer.
        """
        screens = [name for name in self.values if name.startswith("screen-")]
        if screens and chance.random() < 0.7:
            name = chance.choice(screens)
            return self.rerun(self.places[name], **{name: chance.choice(self.values[name])})
        if "img" in self.values:
            data = "digits" if "data=digits" in self.query else "shapes"
            return self.rerun(img=float(chance.choice(pack.images(data).index.tolist())))
        return self.rerun()


class Found:
    """The result of a crowd: the number of interactions, and what was seen in each that failed."""

    def __init__(self) -> None:
        self.done, self.seconds = 0, 0.0
        self.failed: list[str] = []
        self.kept: list[float] = []  # Seconds of each interaction whose result is cached.

    def __str__(self) -> str:
        kinds = Counter(
            re.sub(r"report [0-9a-f]{6}", "report …", fault)[:160] for fault in self.failed
        )
        return (
            f"{len(self.failed)} of {self.done} interactions failed in {self.seconds:.0f} s"
            + "".join(f"\n{count:4d} × {kind}" for kind, count in kinds.most_common())
        )


def crowd(
    server: Server,
    sessions: int,
    interactions: int,
    addresses: Sequence[str] = ADDRESSES,
    seed: int = 0,
    looking: float = 0.0,
    pause: float = 0.0,
) -> Found:
    """Runs `sessions` sessions on a server at once, each with `interactions` interactions, the
    first of which opens an address. `looking`: the share of sessions that only ask for cached
    results; `pause`: the mean seconds between an answer and the next click.
    """
    found, lock, doors = Found(), threading.Lock(), threading.Barrier(sessions)

    def one(number: int) -> None:
        chance, person = random.Random(1000 * seed + number), None
        kept = number < looking * sessions
        doors.wait()
        for at in range(interactions):
            page = PAGES[(number + at) % len(PAGES)]
            fault, seconds = "", 0.0
            time.sleep(chance.uniform(0, 2 * pause))
            try:
                # Open the page, or another address.
                if person is None or (not kept and chance.random() < 0.2):
                    if person is not None:
                        person.leave()
                    query = ("", "data=digits")[number % 2] if kept else chance.choice(addresses)
                    person = Person(server, page, query)
                    seconds = person.first
                elif chance.random() < 0.4:
                    seconds = person.go(page)
                else:
                    seconds = (person.look if kept else person.do_something)(chance)
                fault = "; ".join(person.faults)
                person.faults.clear()
            except Exception as error:  # No answer, or a broken connection.
                fault = f"{type(error).__name__}: {error}"
                with contextlib.suppress(Exception):
                    if person is not None:
                        person.leave()
                person = None
            with lock:
                found.done += 1
                if fault:
                    found.failed.append(fault)
                elif kept and at:
                    found.kept.append(seconds)
        if person is not None:
            person.leave()

    began = time.monotonic()
    with ThreadPoolExecutor(sessions) as people:
        list(people.map(one, range(sessions)))
    found.seconds = time.monotonic() - began
    return found
