"""What the server does for every page beside Streamlit's own work."""

import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.middleware import Middleware

from robustviz import imports, process

MAIN = Path(__file__).with_name("main.py")  # the script that Streamlit runs at every click

# What the first page is made of, and what Streamlit would look for when it draws it. Half of pandas
# in `sys.modules` is taken for all of it by whoever looks there, so that comes before anybody, too.
FIRST = (
    "pandas",
    "robustviz.embedder",
    "robustviz.ui.shell",
    "robustviz.views.start.panel",
    "streamlit.material_icon_names",
    "streamlit.emojis",
)


@contextlib.asynccontextmanager
async def open_house(app: Any) -> AsyncIterator[None]:
    """ASGI lifespan: what the first page needs is there before anybody comes, so that it waits for
    nobody's torch; what the others need comes meanwhile, in a thread for which they wait.
    """
    process.leave_out_triton()
    imports.load_all(FIRST)
    threading.Thread(target=_import_ahead, daemon=True).start()
    yield


def _import_ahead() -> None:
    # what cannot be imported is said by the page that needs it
    with contextlib.suppress(Exception):
        imports.load_all((*imports.needed(), *imports.LATER))


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
    "middleware": [Middleware(Prompt)],
    "lifespan": open_house,
}
