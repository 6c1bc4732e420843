"""What the server does for every page beside Streamlit's own work."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from robustviz import imports, plugins, process
from robustviz.ui.guard import Guard

MAIN = Path(__file__).with_name("main.py")  # the script that Streamlit runs at every click

# What first pages are made of, and what Streamlit would look for when it draws them. Half of pandas
# in `sys.modules` is taken for all of it by whoever looks there, so that comes before anybody, too.
FIRST = (
    "pandas",
    "plotly.io",
    "plotly.graph_objects",
    "robustviz.embedder",
    "robustviz.ui.header",
    "robustviz.ui.stage",
    "robustviz.ui.widgets",
    "streamlit.material_icon_names",
    "streamlit.emojis",
)
# the form is made from the registry, and pictures are read with torch
TORCH = ("robustviz.views.train.panel", "robustviz.views.your_data.panel")


def first() -> tuple[str, ...]:
    """What must be there before anybody comes: first screens need no torch."""
    panels = imports.load("robustviz.views").modules("panel")
    return (*FIRST, *(name for name in panels if name not in TORCH))


@contextlib.asynccontextmanager
async def open_house(app: Any) -> AsyncIterator[None]:
    """ASGI lifespan: what first screens need is there before anybody comes, so that they wait for
    nobody's torch; the rest comes meanwhile, in one thread, for which they wait who need it.
    """
    process.leave_out_triton()
    plugins.load_all()
    for name in first():
        with contextlib.suppress(Exception):  # the page that needs it says what is wrong
            imports.load(name)
    threading.Thread(target=_import_ahead, daemon=True).start()
    if os.environ.get("ROBUSTVIZ_SIGN"):  # a launcher's child
        threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    yield


def _end_with_the_launcher() -> None:
    """Its end of our input closes, however it ends: a server that nobody started keeps no port."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _import_ahead() -> None:
    for name in (*imports.needed(), *imports.LATER):
        with contextlib.suppress(Exception):
            imports.load(name)
        time.sleep(0.002)  # who waits for its turn has it now


class Prompt:
    """ASGI middleware: what a page sends leaves at once.

    Streamlit binds its socket so that asyncio leaves Nagle's algorithm on: a page of many small
    messages then waits for the browser's delayed acknowledgement, 40 ms on Linux.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            # The protocol object is uvicorn's own; under another server the messages go as it sends
            # them.
            with contextlib.suppress(AttributeError, OSError):
                wire = send.__self__.transport.get_extra_info("socket")
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self.app(scope, receive, send)


# What `app.py` gives to `st.App`.
HOUSE: dict[str, Any] = {
    "script_path": MAIN,
    "middleware": [Middleware(Guard), Middleware(Prompt)],
    "lifespan": open_house,
}
