"""What the server does for every page beside Streamlit's own work."""

from __future__ import annotations

import contextlib
import socket
from typing import Any


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
