"""Many people at one app, without a browser: each is a session over a WebSocket that does what
people do and reads every answer.

`crowd(server, sessions, interactions)` lets them all arrive at once and says what went wrong.
Everything stays on this computer.
"""

from __future__ import annotations

import contextlib
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

from benchmarks.b12_app import PAGES, Server, Visitor
from robustviz.views.attention.result import METHODS

# What an address can say besides its page: other data, other networks, another image, another
# attack.
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
# The same on small images, few of them, few steps: for a test that must not take long.
SMALL = "data=digits&map-n=50&map-steps=3&contributions-n=50&steps=3&transfer-steps=1"
FEW = (SMALL, f"{SMALL}&img=5", f"{SMALL}&cam=grad_cam_plusplus", f"{SMALL}&map=pca")
UNEXPECTED = "Something unexpected happened"


class Person(Visitor):
    """A session that complains of what should not be shown, and of silence."""

    patience = 600.0

    def __init__(self, server: Server, page: str = "", query: str = "") -> None:
        self.faults: list[str] = []
        super().__init__(server, page, query)

    def _read(self, messages: list[ForwardMsg], fragment: str) -> None:
        super()._read(messages, fragment)
        for message in messages:
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

    def do_something(self, chance: random.Random) -> None:
        """Change an image, a slider or a choice where the page has one; else look at the page
        again, or at a part of it.
        """
        known = self.widgets
        can = [
            lambda: self.rerun(),
            lambda: self.rerun(chance.choice(self.fragments) if self.fragments else ""),
        ]
        if "img" in known:
            can += [lambda: self.rerun(img=float(chance.randrange(40)))] * 3
        if "eps" in known:
            can += [lambda: self.rerun(eps=[float(chance.randrange(1, 16))])] * 2
        if "attack" in known:
            can.append(lambda: self.rerun(attack=[chance.choice(("PGD", "FGSM", "Targeted"))]))
        if "map" in known:
            can.append(lambda: self.rerun(map=[chance.choice(("Class centres", "PCA"))]))
        if "T" in known:
            can.append(lambda: self.rerun(T=[float(chance.randrange(1, 20))]))
        if "cam" in known:
            can += [lambda: self.rerun(cam=chance.choice(list(METHODS.values())))] * 3
        if self.boxes:
            can.append(lambda: self.rerun(**{chance.choice(sorted(self.boxes)): True}))
        chance.choice(can)()


class Found:
    """What a crowd found: how many interactions, and of each that failed what was seen."""

    def __init__(self) -> None:
        self.done, self.seconds = 0, 0.0
        self.failed: list[str] = []

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
) -> Found:
    """So many sessions on a server at once, each with so many interactions, the first of which is
    to arrive by an address.
    """
    found, lock, doors = Found(), threading.Lock(), threading.Barrier(sessions)

    def one(number: int) -> None:
        chance, person = random.Random(1000 * seed + number), None
        doors.wait()
        for at in range(interactions):
            page = PAGES[(number + at) % len(PAGES)]
            fault = ""
            try:
                # arrive, or come by an address that somebody sent
                if person is None or chance.random() < 0.2:
                    if person is not None:
                        person.leave()
                    person = Person(server, page, chance.choice(addresses))
                elif chance.random() < 0.4:
                    person.go(page)
                else:
                    person.do_something(chance)
                fault = "; ".join(person.faults)
                person.faults.clear()
            except Exception as error:  # silence, or a connection that broke
                fault = f"{type(error).__name__}: {error}"
                with contextlib.suppress(Exception):
                    if person is not None:
                        person.leave()
                person = None
            with lock:
                found.done += 1
                if fault:
                    found.failed.append(fault)
        if person is not None:
            person.leave()

    began = time.monotonic()
    with ThreadPoolExecutor(sessions) as people:
        list(people.map(one, range(sessions)))
    found.seconds = time.monotonic() - began
    return found
