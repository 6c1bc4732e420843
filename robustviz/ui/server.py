"""What the server does for every page beside Streamlit's own work."""

from __future__ import annotations

import contextlib
import functools
import importlib
import socket
import threading
from typing import Any

from robustviz import runs
from robustviz.types import UserError

CALM = 2.0  # seconds after the first visitor came: the first page has been sent, and nobody has answered its question yet
# What the other pages need, in this order. Two threads that import at once wait for each other module by module, so nothing
# belongs here whose parts import each other in circles and are entered from several sides: torch._dynamo.
NEEDED = ("torch", "robustviz.probes", "sklearn.manifold", "altair")


class Prompt:
    """ASGI middleware: what a page sends leaves at once; and after the first visitor what other pages need is imported.

    Streamlit binds its socket so that asyncio leaves Nagle's algorithm on: a page of many small messages then waits for
    the browser's delayed acknowledgement, 40 ms on Linux.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            _first_visit()
            # The protocol object is uvicorn's own; under another server the messages go as it sends them.
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            with contextlib.suppress(AttributeError, OSError):
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[union-attr]
        await self.app(scope, receive, send)


@functools.cache
def _first_visit() -> None:
    timer = threading.Timer(CALM, _prepare)
    timer.daemon = True
    timer.start()


def _prepare() -> None:
    for name in NEEDED:
        with contextlib.suppress(ImportError):  # the page that needs it says so
            importlib.import_module(name)
    with contextlib.suppress(ImportError, UserError, StopIteration):
        from robustviz.probes.base import images_of
        from robustviz.ui.context import FIRST

        images_of(next(run for run in runs.all_runs() if run.data_key == FIRST["data"]))  # drawn, not read: most of a second
