"""What the server does for every page beside Streamlit's own work."""

from __future__ import annotations

import contextlib
import importlib
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

# What the first page is made of, and what Streamlit would look for when it draws it.
FIRST = ("robustviz.embedder", "robustviz.ui.shell", "robustviz.ui.story", "streamlit.material_icon_names", "streamlit.emojis")


@contextlib.asynccontextmanager
async def open_house(app: Any) -> AsyncIterator[None]:
    """ASGI lifespan: what the first page needs is there before anybody comes, so that it waits for nobody's torch; then
    sessions import one after the other.
    """
    for name in FIRST:
        with contextlib.suppress(ModuleNotFoundError):  # another Streamlit's; pages say what is missing of ours
            importlib.import_module(name)
    with one_import_at_a_time():
        yield


@contextlib.contextmanager
def one_import_at_a_time() -> Iterator[None]:
    """While inside, a thread that imports what is not there yet waits until no other one does.

    Python locks each module by itself. Of two threads that enter a package by different doors each then waits for the other,
    and Python resolves that by `_DeadlockError`, or by handing out a module that is half there. A lock around the whole search
    leaves nobody to wait for. Everything that imports goes through that one function, statements in C and `import_module`
    alike; modules that are there already do not.
    """
    machinery: Any = importlib._bootstrap
    find_and_load, lock = machinery._find_and_load, threading.RLock()

    def alone(*asked: Any) -> Any:
        with lock:
            return find_and_load(*asked)

    machinery._find_and_load = alone
    try:
        yield
    finally:
        machinery._find_and_load = find_and_load


class Prompt:
    """ASGI middleware: what a page sends leaves at once.

    Streamlit binds its socket so that asyncio leaves Nagle's algorithm on: a page of many small messages then waits for
    the browser's delayed acknowledgement, 40 ms on Linux.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            # The protocol object is uvicorn's own; under another server the messages go as it sends them.
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            with contextlib.suppress(AttributeError, OSError):
                transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # type: ignore[union-attr]
        await self.app(scope, receive, send)
