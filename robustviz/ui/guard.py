"""Access control of the server: it answers only requests for its own names, from its own pages.

A page of another site can make a browser send requests here, but cannot choose their Host and
Origin. Both headers are checked before Streamlit gets the request, because Streamlit would ask an
outside server about an unknown host name.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

OWN = ("127.0.0.1", "localhost", "::1")
# The content security policy: a page may load from and connect to its own server only. Vega needs
# `unsafe-eval`; Streamlit loads the JavaScript of components from `blob:` and sets inline styles.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "connect-src 'self' {socket} data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
    )
)
HEADERS = (
    (b"x-frame-options", b"DENY"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)
# Uploads are held in the server's memory, so only sessions that a page has invited may upload.
UPLOADS = "/_stcore/upload_file"
MOST_WAITING = 600_000_000  # limit of bytes in memory, for all sessions together
_turn = threading.Lock()
_invited: dict[str, int] = {}  # bytes that each session has uploaded and no page has taken


def invite(session: str, known: Callable[[str], bool] = lambda session: True) -> None:
    """Allow a session to upload, and set its count of uploaded bytes to zero. A page calls this
    when it has taken the session's files from memory. Sessions for which `known` is false, because
    they have ended, are removed.
    """
    with _turn:
        for other in [other for other in _invited if not known(other)]:
            del _invited[other]
        _invited[session] = 0


def dismiss(session: str) -> bool:
    """Forbid a session to upload. Returns whether it was allowed before."""
    with _turn:
        return _invited.pop(session, None) is not None


def hosts() -> frozenset[str]:
    """The names under which this server may be reached: 127.0.0.1, localhost, ::1, and those in the
    environment variable `ROBUSTVIZ_HOSTS`, separated by commas there.
    """
    more = os.environ.get("ROBUSTVIZ_HOSTS", "").lower().split(",")
    return frozenset([*OWN, *filter(None, map(str.strip, more))])


def _name(netloc: str) -> str:
    """The host name without the port, as ::1 for `[::1]:8501`; empty if it is not valid."""
    try:
        return (urlsplit(f"//{netloc}").hostname or "").lower()
    except ValueError:
        return ""


def refused(scope: Scope, allowed: Iterable[str]) -> str:
    """Why a request to a server with the host names `allowed` is refused, as one sentence; empty if
    it is allowed. The length of an allowed upload is added to its session's count of bytes.
    """
    asked = [value.decode("latin-1") for key, value in scope["headers"] if key == b"host"]
    if len(asked) != 1 or _name(asked[0]) not in allowed:
        return (
            "This address does not belong to this server: open the address that it printed, or"
            " add this one to ROBUSTVIZ_HOSTS."
        )
    for key, value in scope["headers"]:
        if key == b"origin" and not _same(value.decode("latin-1"), asked[0]):
            return "This request comes from a page of another site."
    return _refused_upload(scope) if scope.get("path", "").startswith(UPLOADS) else ""


def _refused_upload(scope: Scope) -> str:
    """Why an upload is refused, as one sentence; empty if it is allowed, and then its bytes are
    added to the session's count.
    """
    session = scope["path"].removeprefix(UPLOADS).strip("/").partition("/")[0]
    said = [value for key, value in scope["headers"] if key == b"content-length"]
    length = int(said[0]) if len(said) == 1 and said[0].isdigit() and len(said[0]) < 16 else None
    with _turn:
        if session not in _invited:
            return "Only users with permission can upload, on the pages Your data and Compare."
        if scope.get("method") != "PUT":
            return ""
        if length is None:
            return "The upload does not state its length (Content-Length)."
        if sum(_invited.values()) + length > MOST_WAITING:
            return "Too much is being uploaded at once: try again in a minute, or send less."
        _invited[session] += length
    return ""


def _same(origin: str, host: str) -> bool:
    """Whether a page with this origin comes from this host, by name and port."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    usual = {"http": ":80", "https": ":443"}.get(parts.scheme)
    bare = host.lower().removesuffix(usual or "\0")
    return usual is not None and parts.netloc.lower().removesuffix(usual) == bare


class Guard:
    """ASGI middleware that lets only allowed requests pass (see `refused`). It answers others with
    status 403, or closes their WebSocket, and adds headers to all other answers that forbid
    browsers to load from or connect to other servers.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif why := refused(scope, hosts()):
            await _refuse(scope, send, why)
        elif scope["type"] == "http":
            await self.app(scope, receive, _with_headers(scope, send))
        else:
            await self.app(scope, receive, send)


def _with_headers(scope: Scope, send: Send) -> Send:
    host = next(value.decode("latin-1") for key, value in scope["headers"] if key == b"host")
    policy = POLICY.format(socket=f"ws://{host} wss://{host}").encode("latin-1")
    sign = os.environ.get("ROBUSTVIZ_SIGN", "").encode("latin-1")
    more = (*HEADERS, (b"x-robustviz", sign), (b"content-security-policy", policy))

    async def sent(message: Any) -> None:
        if message["type"] == "http.response.start":
            own = {key for key, _ in more}
            kept = [(key, value) for key, value in message["headers"] if key.lower() not in own]
            message = {**message, "headers": [*kept, *more]}
        await send(message)

    return sent


async def _refuse(scope: Scope, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    body = f"{why}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
    ]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
