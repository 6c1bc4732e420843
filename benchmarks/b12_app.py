"""B12: the app: time of a rerun that computes nothing new, alone and during a training; time of
thumbnails; size of payloads.

A visitor is a WebSocket client that speaks Streamlit's protocol with the real server. A time runs
from sending the click to the last message of the answer and excludes drawing in the browser.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import plotly.graph_objects as go
import plotly.io
import psutil
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect

from benchmarks.harness import OURS, Gate, Outcome, Racer, Time, race
from robustviz import data, figures
from robustviz.runs import folder as runs, queue
from robustviz.training.config import TrainConfig
from robustviz.views.pictures import png
from robustviz.views.theme import LIGHT, blank

PAGES = (
    "",
    "attack",
    "attention",
    "features",
    "soft-labels",
    "train",
    "contributions",
    "transfer",
    "budget",
    "compare",
    "glossary",
)
PATIENCE = 180.0  # seconds
REST = 0.02  # seconds between two clicks; no person clicks faster
Value = float | str | bool | list[float] | list[str] | dict[str, int]  # what a widget can hold
LINES = 80  # lines of the bare Streamlit app: as many messages as our median page sends
BARE = f"import streamlit as st\nfor i in range({LINES}):\n    st.markdown(f'line {{i}}')\n"
SETTINGS = (
    "[runner]\npostScriptGC = false\n[browser]\ngatherUsageStats = false\n[server]\nfileWatcherType"
    " = 'none'\n"
)


class Server:
    """An app in its own process; `end` stops it and all processes that it started."""

    def __init__(self, command: list[str], folder: Path, **environment: str) -> None:
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PORT", "PYTHONDONTWRITEBYTECODE")
        }
        self.log = folder / "server.log"
        with open(self.log, "wb") as log:
            self.process = psutil.Popen(
                command,
                cwd=folder if "run" in command else runs.REPOSITORY,
                env=inherited | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + PATIENCE
        while not (
            found := re.search(
                r"http://(?:127\.0\.0\.1|localhost):(\d+)", self.log.read_text(errors="replace")
            )
        ):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"The app did not start:\n{self.log.read_text(errors='replace')}"
                )
            time.sleep(0.05)
        self.port = int(found[1])
        self.streamlit = next(
            (child for child in self.process.children() if "streamlit" in child.cmdline()),
            self.process,
        )

    @property
    def memory(self) -> float:
        """Memory of the server's process in MiB."""
        return float(self.streamlit.memory_info().rss / 2**20)

    @property
    def spent(self) -> float:
        """Processor time of the server's process in seconds."""
        times = self.streamlit.cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        family = [*self.process.children(recursive=True), self.process]
        for process in family[::-1]:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        for process in psutil.wait_procs(family, timeout=10)[1]:
            with contextlib.suppress(psutil.Error):
                process.kill()


def app(home: Path, **environment: str) -> Server:
    """Start our app, with the user's runs in the folder `home`."""
    command = [sys.executable, "-m", "robustviz", "app", "--no-browser"]
    return Server(
        command, home.parent, ROBUSTVIZ_RUNS=str(home), ROBUSTVIZ_BROWSER="0", **environment
    )


class Visitor:
    """A session with the server over a WebSocket, as a browser would have it.

    `first` is the time in seconds until the first page was complete.
    """

    patience = PATIENCE
    cookie = ""  # the Cookie header that a browser would send

    def __init__(self, server: Server, page: str = "", query: str = "") -> None:
        self.socket = connect(
            f"ws://127.0.0.1:{server.port}/_stcore/stream",
            subprotocols=["streamlit"],
            max_size=None,
            compression=None,
            legacy=True,  # type: ignore[list-item]
            open_timeout=self.patience,
            additional_headers={"Cookie": self.cookie} if self.cookie else None,
        )
        self.page, self.query, self.bytes = "", query, 0
        self.widgets: dict[str, str] = {}
        self.boxes: set[str] = set()  # the widgets that open and close: expanders and popovers
        self.fragments: list[str] = []
        self.kept: dict[
            str, ForwardMsg
        ] = {}  # cached like in a browser: the server sends only the hash of a cached message
        self.first = self.go(page)

    def go(self, page: str) -> float:
        """Go to a page, given by its address; returns the seconds until it is complete."""
        return self._run(page=page)

    def rerun(self, fragment: str = "", **values: Value) -> float:
        """Rerun the page, or one of its fragments, with changed widgets; returns the seconds.

        `values` are the new values by widget key: a number is a float, a slider a list of one
        float, a choice its text, a segmented control a list of one text, the state of a component a
        dict; True presses a button or opens an expander.
        """
        return self._run(fragment=fragment, values=values)

    def _run(
        self, page: str | None = None, fragment: str = "", values: dict[str, Value] | None = None
    ) -> float:
        message = BackMsg()
        asked = message.rerun_script
        asked.query_string, asked.fragment_id = self.query, fragment
        asked.page_name, asked.page_script_hash = (
            (page, "") if page is not None else ("", self.page)
        )
        asked.context_info.color_scheme = "light"
        asked.cached_message_hashes.extend(self.kept)
        for key, value in (values or {}).items():
            widget = asked.widget_states.widgets.add()
            widget.id = self.widgets[key]
            if isinstance(value, list):
                (
                    widget.string_array_value
                    if isinstance(value[0], str)
                    else widget.double_array_value
                ).data.extend(value)  # type: ignore[arg-type]
            elif isinstance(value, dict):
                widget.json_value = json.dumps(value)
            elif value is True:
                setattr(widget, "bool_value" if key in self.boxes else "trigger_value", True)
            else:
                setattr(widget, "string_value" if isinstance(value, str) else "double_value", value)
        started = time.perf_counter()
        self.socket.send(message.SerializeToString())
        got: list[bytes] = []
        while True:
            got.append(bytes(self.socket.recv(timeout=self.patience)))  # type: ignore[arg-type]
            # messages are parsed later, so that this process leaves the processor to the server
            if len(got[-1]) < 200:
                last = ForwardMsg.FromString(got[-1])
                if (
                    last.WhichOneof("type") == "script_finished"
                    and last.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN
                ):
                    break
        seconds = time.perf_counter() - started
        self._read([ForwardMsg.FromString(one) for one in got], fragment)
        self.bytes = sum(map(len, got))
        return seconds

    def _read(self, messages: list[ForwardMsg], fragment: str) -> None:
        if not fragment:
            self.fragments = []
        for sent in messages:
            message = self.kept[sent.ref_hash] if sent.WhichOneof("type") == "ref_hash" else sent
            if message.metadata.cacheable:
                self.kept[message.hash] = message
            kind = message.WhichOneof("type")
            if kind == "navigation":
                self.page = message.navigation.page_script_hash
            elif kind == "page_info_changed":
                self.query = message.page_info_changed.query_string
            elif kind == "delta":
                if (name := message.delta.fragment_id) and name not in self.fragments:
                    self.fragments.append(name)
                element = message.delta.new_element
                known = str(
                    getattr(getattr(element, element.WhichOneof("type") or "empty"), "id", "")
                )
                if (
                    box := message.delta.add_block.expandable.id
                    or message.delta.add_block.popover.id
                ):
                    self.boxes.add(box.split("-", 2)[2])
                if (known or box).startswith("$$ID-"):  # $$ID-<hash>-<key>
                    self.widgets[(known or box).split("-", 2)[2]] = known or box

    def clicks(self, times: int) -> Iterator[float]:
        """Time `times` reruns of the current page, in seconds each.

        The kinds of rerun alternate: the whole page, its first fragment, and another image.
        """
        kinds = [lambda at: self.rerun()]
        if self.fragments:
            kinds.append(lambda at: self.rerun(self.fragments[0]))
        if "img" in self.widgets:
            kinds.append(lambda at: self.rerun(img=float(at // len(kinds) % 2)))
        for at in range(2 * len(kinds)):  # untimed: fills the caches
            kinds[at % len(kinds)](at)
        for at in range(times):
            time.sleep(REST)
            yield kinds[at % len(kinds)](at)

    def leave(self) -> None:
        self.socket.close()


def p95(seconds: list[float]) -> float:
    """The 95% quantile of times given in seconds, in milliseconds."""
    return float(1000 * np.quantile(seconds, 0.95))


def all_pages(
    server: Server, bare: Visitor | None, each: int
) -> tuple[list[float], list[float], list[float]]:
    """Times in seconds: our reruns over all pages, reruns of the bare app, and first visits.

    After each of our reruns the bare app is rerun once, if there is one.
    """
    ours, theirs, first = [], [], []
    for page in PAGES:
        visitor = Visitor(server, page)
        first.append(visitor.first)
        for seconds in visitor.clicks(each):
            ours.append(seconds)
            if bare is not None:
                theirs.append(bare.rerun())
        visitor.leave()
    return ours, theirs, first


def memory(server: Server, clicks: int) -> tuple[float, float]:
    """The server's memory in MiB after a tenth of `clicks` clicks, and at the end.

    The clicks go over all pages.
    """
    visitor, rng, before = Visitor(server, "attack"), random.Random(0), 0.0
    for at in range(clicks):
        if at % 10 == 0:
            visitor.go(PAGES[at // 10 % len(PAGES)])
            visitor.widgets = {}
            visitor.rerun()
        elif "img" in visitor.widgets and at % 3:
            visitor.rerun(img=float(rng.randrange(4)))
        else:
            visitor.rerun(visitor.fragments[0] if visitor.fragments and at % 2 else "")
        if at == clicks // 10:
            before = server.memory
    visitor.leave()
    return before, server.memory


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Times of the pages without and with a training beside them, then pictures and payloads."""
    if device == "cpu":
        yield reruns(rounds or 25)
    yield thumbnails(rounds or 20)
    yield payload(rounds or 20)


def reruns(each: int) -> Outcome:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ending:
        home = Path(folder) / "runs"
        home.mkdir()
        (Path(folder) / "bare" / ".streamlit").mkdir(parents=True)
        (Path(folder) / "bare" / "bare.py").write_text(BARE)
        (Path(folder) / "bare" / ".streamlit" / "config.toml").write_text(SETTINGS)
        server = app(home)
        ending.callback(server.end)
        flags = ["--server.headless=true", "--server.address=127.0.0.1", "--server.port=0"]
        other = Server(
            [sys.executable, "-m", "streamlit", "run", "bare.py", *flags], Path(folder) / "bare"
        )
        ending.callback(other.end)
        bare = Visitor(other)
        for _ in range(5):
            bare.rerun()
        # fills the caches, so that the times of first visits below are those of a server in use
        all_pages(server, None, 0)
        used = server.spent
        quiet, theirs, first = all_pages(server, bare, each)
        used = 1000 * (server.spent - used) / len(quiet)
        load = os.getloadavg()[0]
        start, end = memory(server, 40 * each)
        with mock.patch.dict(os.environ, ROBUSTVIZ_RUNS=str(home)):
            run = queue.submit(TrainConfig(data="shapes", epochs=1000, device="cpu"))
            ending.callback(_end, home, run.id)
            deadline = time.monotonic() + PATIENCE
            while not run.records() and time.monotonic() < deadline:
                time.sleep(0.2)
            busy, _, _ = all_pages(server, None, each)
            trained = len(run.records())
        gates = (
            Gate(
                f"p95 {p95(quiet):.1f} ms ≤ 20 ms over {len(quiet)} reruns of {len(PAGES)} pages"
                f" (bare Streamlit app in between: {p95(theirs):.1f} ms)",
                p95(quiet) <= 20,
            ),
            Gate(
                f"p95 {p95(busy):.1f} ms ≤ 20 ms over {len(busy)} while a training runs ({trained}"
                " epochs meanwhile)",
                p95(busy) <= 20,
            ),
            Gate(
                f"memory {start:.0f} → {end:.0f} MiB over {40 * each} clicks, flat within 8 MiB",
                end - start <= 8,
            ),
        )
        note = (
            f"{used:.1f} ms of processor time a rerun; load {load:.1f} on {os.cpu_count()} cores,"
            f" including other processes; a page's first time in a new session {min(first):.2f} to"
            f" {max(first):.2f} s."
        )
        times = (
            Time(OURS, tuple(quiet), max(first)),
            Time(f"Streamlit itself, {LINES} lines of text", tuple(theirs), bare.first),
        )
        return Outcome(
            "B12",
            "a rerun that computes nothing new",
            "all pages, over a WebSocket",
            times,
            {},
            gates,
            note,
        )


def _end(home: Path, run_id: str) -> None:
    with mock.patch.dict(os.environ, ROBUSTVIZ_RUNS=str(home)), contextlib.suppress(Exception):
        queue.stop(runs.open_run(run_id))


def thumbnails(rounds: int) -> Outcome:
    """64 pictures of 32×32 as one PNG.

    They change in each call, because a repeated sheet would be cached.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    images, calls = data.load("shapes", "test", 64).x.numpy()[:64], itertools.count()

    def ours() -> bytes:
        images[0, 0, 0, :2] = np.array(divmod(next(calls), 256)) / 255
        return figures.sheet(list(images), 96, columns=8)

    def theirs() -> bytes:
        figure, axes = plt.subplots(8, 8, figsize=(8, 8))
        for axis, image in zip(axes.flat, images, strict=True):
            axis.imshow(image.transpose(1, 2, 0))
            axis.axis("off")
        out = io.BytesIO()
        figure.savefig(out, format="png")
        plt.close(figure)
        return out.getvalue()

    times = race([Racer(OURS, ours), Racer("matplotlib grid", theirs)], rounds)
    size = [len(ours()) / 1000, sum(len(png(image, 96)) for image in images) / 1000]
    gate = Gate(
        f"one picture of {size[0]:.0f} kB instead of 64 of {size[1]:.0f} kB",
        size[0] <= 1.2 * size[1],
    )
    return Outcome(
        "B12",
        "64 thumbnails",
        "shapes, 32×32, three channels",
        times,
        {"matplotlib grid": 50},
        (gate,),
    )


def payload(rounds: int) -> Outcome:
    """The JSON of a cloud of 10,000 points: float32 arrays against lists of numbers."""
    xy = np.random.default_rng(0).normal(size=(2, 10_000)).astype(np.float32)
    index = np.arange(10_000)

    def cloud(x: object, y: object, number: object) -> str:
        figure = blank(LIGHT, "10,000 points").add_trace(
            go.Scattergl(x=x, y=y, customdata=number, mode="markers")
        )
        return str(plotly.io.to_json(figure, validate=False))

    def ours() -> str:
        return cloud(xy[0], xy[1], index)

    def lists() -> str:
        x, y = (row.tolist() for row in xy.astype(float))
        return cloud(x, y, index.tolist())

    times = race([Racer(OURS, ours), Racer("lists of numbers", lists)], rounds)
    small, large = len(ours()), len(lists())
    gate = Gate(
        f"{small / 1000:.0f} kB against {large / 1000:.0f} kB: {large / small:.2f}× smaller, wanted"
        " 2.5×",
        large / small >= 2.5,
    )
    return Outcome(
        "B12", "payload of 10,000 points", "x, y and the image's number", times, {}, (gate,)
    )
