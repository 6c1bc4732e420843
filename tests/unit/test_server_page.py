"""Tests that the examples in docs/server.md work exactly as printed: its Caddy file in front of a
real server, its systemd unit and its variables. Caddy and systemd are used where they are
installed.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from benchmarks import b12_app
from robustviz import paths
from robustviz.cli import parser

TEXT = (paths.ROOT / "docs" / "server.md").read_text(encoding="utf-8")
HOST, TOKEN, WORD = "lab.example.org", "the-token-of-this-test", "a password"


def block(kind: str) -> str:
    """Returns the only code block of this language."""
    (found,) = re.findall(rf"```{kind}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_every_variable_of_the_page_is_read_somewhere() -> None:
    named = set(re.findall(r"ROBUSTVIZ_[A-Z]+(?:_[A-Z]+)*", TEXT))
    code = "\n".join(path.read_text(encoding="utf-8") for path in paths.PACKAGE.rglob("*.py"))
    for name in named:
        limit = name.startswith("ROBUSTVIZ_MOST_")
        assert (f'_limit("{name[15:]}")' if limit else f'"{name}"') in code, name


def test_every_command_of_the_page_exists() -> None:
    said = re.findall(r"python -m robustviz ([^`\n#]*)", TEXT)
    assert len(said) > 4
    for line in said:
        parser().parse_args(line.replace("RUN", "some-run").split())


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "robustviz.service"
    text = block("ini").replace("/opt/robustviz/.venv/bin/python", sys.executable)
    unit.write_text(text.replace("User=robustviz", "User=root"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not complaints, complaints


@pytest.fixture
def lab(tmp_path: Path, port: int) -> Iterator[tuple[b12_app.Server, int]]:
    """Yields a server with the page's settings, and the port of the page's Caddy in front of it."""
    (tmp_path / "runs").mkdir()
    server = b12_app.app(tmp_path / "runs", **{**settings(), "ROBUSTVIZ_TOKEN": TOKEN})
    hashed = subprocess.run(
        ["caddy", "hash-password", "--plaintext", WORD], capture_output=True, text=True, check=True
    ).stdout.strip()
    text = block("caddy").replace("HASH", hashed).replace("8501", str(server.port))
    text = text.replace(f"{HOST} {{", f"https://{HOST}:{port} {{\n\ttls internal", 1)
    options = "{\n\tadmin off\n\tskip_install_trust\n\tauto_https disable_redirects\n}\n"
    (tmp_path / "Caddyfile").write_text(options + text, encoding="utf-8")
    at_home = {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "ROBUSTVIZ_TOKEN": TOKEN}
    with open(tmp_path / "caddy.log", "wb") as log:
        proxy = subprocess.Popen(
            ["caddy", "run", "--config", str(tmp_path / "Caddyfile")],
            env=os.environ | {"XDG_CONFIG_HOME": str(tmp_path)} | at_home,
            stdout=log,
            stderr=log,
        )
    try:
        until_it_answers(port, tmp_path / "caddy.log")
        yield server, port
    finally:
        proxy.terminate()
        proxy.wait(20)
        server.end()


def settings() -> dict[str, str]:
    """Returns the variables about access rights that the page's systemd unit sets."""
    every = dict(re.findall(r"^Environment=(\w+)=(.*)$", block("ini"), re.MULTILINE))
    wanted = ("MODE", "HOSTS", "USER_HEADER", "TEACHERS")
    return {f"ROBUSTVIZ_{name}": every[f"ROBUSTVIZ_{name}"] for name in wanted}


def trusting() -> ssl.SSLContext:
    """Returns an SSL context that checks no certificate, because Caddy signs its own here."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def plain(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def wire(port: int) -> ssl.SSLSocket:
    return trusting().wrap_socket(plain(port), server_hostname=HOST)


def until_it_answers(port: int, log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            return wire(port).close()
        except OSError:
            assert time.monotonic() < end, log.read_text(errors="replace")
            time.sleep(0.2)


def answer(port: int, user: str = "", path: str = "/") -> str:
    """Returns what a browser gets, headers first."""
    login = f"Authorization: Basic {encoded(user)}\r\n" if user else ""
    asked = f"GET {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\n{login}Connection: close\r\n\r\n"
    with wire(port) as line:
        line.sendall(asked.encode())
        parts = []
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts).decode("utf-8", "replace")


def encoded(user: str) -> str:
    return base64.b64encode(f"{user}:{WORD}".encode()).decode()


class Guest(b12_app.Visitor):
    """A session through the proxy, or directly at the server, with its own headers."""

    def __init__(self, port: int, headers: dict[str, str], proxy: bool = True) -> None:
        where = f"wss://{HOST}:{port}" if proxy else f"ws://127.0.0.1:{port}"
        self.socket = connect(
            f"{where}/_stcore/stream",
            sock=plain(port),
            ssl=trusting() if proxy else None,
            subprotocols=["streamlit"],  # type: ignore[list-item]
            origin=where.replace("ws", "http", 1),  # type: ignore[arg-type]
            additional_headers=headers,
            max_size=None,
            compression=None,
            legacy=True,  # type: ignore[list-item]
        )
        self.page, self.query, self.bytes = "", "", 0
        self.widgets: dict[str, str] = {}
        self.boxes: set[str] = set()
        self.fragments: list[str] = []
        self.kept: dict[str, ForwardMsg] = {}
        self.first = self.go("train")

    @property
    def may(self) -> bool:
        self.leave()
        return "train-go" in self.widgets


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("caddy"), reason="Caddy is not installed")
def test_behind_the_pages_proxy_whom_it_names_may_act_and_nobody_else(
    lab: tuple[b12_app.Server, int],
) -> None:
    server, port = lab
    assert answer(port).startswith("HTTP/1.1 401")
    page = answer(port, "eve")
    assert page.startswith("HTTP/1.1 200")
    assert "frame-ancestors 'none'" in page and f"wss://{HOST}:{port}" in page

    def login(user: str) -> dict[str, str]:
        return {"Authorization": f"Basic {encoded(user)}"}

    claim = {"X-Robustviz-User": "ada", "X-Robustviz-Token": "guessed"}
    with pytest.raises(InvalidStatus):
        Guest(port, claim)
    assert Guest(port, login("ada")).may
    assert not Guest(port, login("eve")).may
    assert not Guest(port, login("eve") | claim).may
    # Directly at the server, without the proxy.
    for name in ({"X-Robustviz-User": "ada"}, claim, {}):
        assert not Guest(server.port, name, proxy=False).may
