"""The server's work beside Streamlit's own: imports ahead of the first page, access control, and
ending with the launcher.
"""

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

MAIN = Path(__file__).with_name("main.py")  # the script that Streamlit runs at every interaction

# What first pages import, and what Streamlit imports when it draws them. pandas is among them
# because code that finds it in `sys.modules` uses it even when it is only half imported.
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
# the panels that need torch: for the registry in the form, and to read pictures
TORCH = ("robustviz.views.train.panel", "robustviz.views.your_data.panel")


def first() -> tuple[str, ...]:
    """The modules to import before the first visitor: those that first screens need. Torch is not
    among them.
    """
    panels = imports.load("robustviz.views").modules("panel")
    return (*FIRST, *(name for name in panels if name not in TORCH))


@contextlib.asynccontextmanager
async def open_house(app: Any) -> AsyncIterator[None]:
    """ASGI lifespan: before the server answers, load the plug-ins and import what first screens
    need; then import the rest in one background thread. A page that needs a module meanwhile waits
    for the import that is going on.
    """
    process.leave_out_triton()
    plugins.load_all()
    for name in first():
        with contextlib.suppress(Exception):  # the page that needs it shows the error
            imports.load(name)
    threading.Thread(target=_import_ahead, daemon=True).start()
    if os.environ.get("ROBUSTVIZ_SIGN"):  # started by the launcher
        threading.Thread(target=_end_with_the_launcher, daemon=True).start()
    yield


def _end_with_the_launcher() -> None:
    """End this server when the launcher ends, in whatever way: standard input, which the launcher
    holds open, then closes.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _import_ahead() -> None:
    for name in (*imports.needed(), *imports.LATER):
        with contextlib.suppress(Exception):
            imports.load(name)
        time.sleep(0.002)  # lets other threads that wait in `load` go first


class Prompt:
    """ASGI middleware: sends each message of a page at once.

    Streamlit binds its socket in a way that leaves Nagle's algorithm on in asyncio: a page of many
    small messages then waits for the browser's delayed acknowledgement, 40 ms on Linux.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            # The protocol object is uvicorn's; under another server nothing is changed.
            with contextlib.suppress(AttributeError, OSError):
                wire = send.__self__.transport.get_extra_info("socket")
                wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await self.app(scope, receive, send)


# The arguments of `st.App` in `app.py`.
HOUSE: dict[str, Any] = {
    "script_path": MAIN,
    "middleware": [Middleware(Guard), Middleware(Prompt)],
    "lifespan": open_house,
}
