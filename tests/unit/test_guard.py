"""Tests that pages of other sites cannot control the app: which requests are refused, and which
headers browsers get.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from robustviz.ui import guard
from robustviz.ui.guard import Guard

HERE = "127.0.0.1:8501"


def ask(
    host: str | list[str] = HERE,
    origin: str | None = None,
    path: str = "/",
    kind: str = "http",
    **more: Any,
) -> tuple[list[Any], bool]:
    """Returns the messages that a client is sent, and whether the request reached the app behind
    the guard.
    """
    heard: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(scope["path"])
        if kind == "http":
            start = {"type": "http.response.start", "status": 200}
            await send(start | {"headers": [(b"X-Frame-Options", b"ALLOWALL")]})
            await send({"type": "http.response.body", "body": b"hello"})

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", one.encode()) for one in ([host] if isinstance(host, str) else host)]
    headers += [(b"origin", origin.encode())] if origin is not None else []
    headers += [(b"content-length", str(length).encode()) for length in more.get("lengths", ())]
    method = {"method": more.get("method", "GET")} if kind == "http" else {}
    scope = {"type": kind, "path": path, "headers": headers} | method
    with contextlib.suppress(StopIteration):  # Nothing inside waits, so no event loop is needed.
        Guard(app)(scope, None, send).send(None)  # type: ignore[arg-type]
    return sent, bool(heard)


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("evil.example", None),
        # A host name that an attacker made to resolve to this computer.
        ("evil.example:8501", "http://evil.example:8501"),
        ("127.0.0.1.evil.example", None),
        ("localhost.evil.example", None),
        ("", None),
        ([], None),
        ([HERE, "evil.example"], None),
        ("[::1", None),
        (HERE, "http://evil.example"),
        (HERE, "http://127.0.0.1:9999"),  # Another server on this computer.
        (HERE, "http://localhost:8501"),
        (HERE, "https://127.0.0.1.evil.example:8501"),
        (HERE, "null"),
        (HERE, ""),
        (HERE, "file://127.0.0.1:8501"),
        (HERE, "http://[::1"),
    ],
)
def test_who_is_not_from_here_is_refused_before_anybody_hears(kind, host, origin):
    sent, heard = ask(host, origin, kind=kind)
    assert not heard
    assert (sent[0].get("status"), sent[0].get("code")) == (
        (403, None) if kind == "http" else (None, 1008)
    )


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize(
    ("host", "origin"),
    [
        (HERE, None),
        (HERE, "http://127.0.0.1:8501"),
        ("localhost:8501", "http://localhost:8501"),
        ("LOCALHOST:8501", "http://localhost:8501"),
        ("[::1]:8501", "http://[::1]:8501"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost", "https://localhost:443"),
    ],
)
def test_the_servers_own_pages_are_heard(kind, host, origin):
    assert ask(host, origin, kind=kind)[1]


def test_a_server_behind_a_name_of_its_own_is_told_so(monkeypatch):
    assert not ask("lab.example", "https://lab.example")[1]
    monkeypatch.setenv("ROBUSTVIZ_HOSTS", "lab.example, 192.168.1.5")
    assert ask("lab.example", "https://lab.example")[1] and ask("192.168.1.5:8501")[1]
    assert not ask("lab.example", "https://other.example")[1]


@pytest.fixture
def invited(monkeypatch):
    """Returns the one session that may upload."""
    monkeypatch.setattr(guard, "_invited", {})
    guard.invite("ada")
    return "ada"


def upload(session: str, *lengths: object, method: str = "PUT") -> bool:
    """Returns whether an upload of this many bytes reaches the app."""
    path = f"/_stcore/upload_file/{session}/file"
    sent, heard = ask(path=path, method=method, lengths=lengths)
    assert heard or sent[0]["status"] == 403
    return heard


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "POST", "GET"])
def test_only_invited_sessions_leave_files_in_memory(invited, method):
    assert upload("ada", 10, method=method)
    assert not upload("eve", 10, method=method)
    for trick in ("", "eve/ada", "ada%2f", "../ada"):
        assert not upload(trick, 10, method=method)
    assert guard.dismiss("ada") and not guard.dismiss("ada")
    assert not upload("ada", 10, method=method)


def test_uploads_say_how_long_they_are_and_together_are_bounded(invited, monkeypatch):
    monkeypatch.setattr(guard, "MOST_WAITING", 100)
    assert not upload("ada") and not upload("ada", 5, 5)
    assert not upload("ada", "many") and not upload("ada", -1) and not upload("ada", "9" * 30)
    guard.invite("grace")
    assert upload("ada", 60) and not upload("grace", 60) and upload("grace", 40)
    guard.invite("ada")  # A page has received ada's upload, so its bytes no longer count.
    assert upload("grace", 60) and not upload("ada", 60)
    guard.invite("grace", known=lambda session: session == "grace")  # The session ada has ended.
    assert not upload("ada", 1)


def test_a_page_of_another_site_uploads_nothing(invited):
    path = f"/_stcore/upload_file/{invited}/x"
    assert not ask(origin="http://evil.example", path=path, method="PUT", lengths=[1])[1]


def test_browsers_load_nothing_from_elsewhere_and_show_the_app_in_no_frame():
    headers = dict(ask()[0][0]["headers"])
    policy = headers[b"content-security-policy"].decode()
    assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert f"ws://{HERE}" in policy and "*" not in policy
    assert headers[b"x-frame-options"] == b"DENY" and b"X-Frame-Options" not in headers
