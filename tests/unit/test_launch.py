"""Tests the launcher: which port and browser it uses, how it starts and ends, and its messages when
it cannot start.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from conftest import eventually

from robustviz import paths
from robustviz.runs import queue
from robustviz.types import UserError
from robustviz.ui import launch

FAKE = """
import http.server, os, sys, threading
class Well(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("x-robustviz", os.environ["ROBUSTVIZ_SIGN"])
        self.end_headers(); self.wfile.write(b"ok")
        threading.Timer(0.3, self.server.shutdown).start()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Well).serve_forever()
print("the last words"); sys.exit(5)
"""


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, runs_home: Path, port: int) -> None:
    monkeypatch.setattr(launch, "PORT", port)
    for name in ("PORT", "CI", "SSH_CONNECTION", "DISPLAY", "WAYLAND_DISPLAY", "ROBUSTVIZ_BROWSER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def taken() -> Iterator[int]:
    """Yields a port that is in use."""
    with socket.socket() as holder:
        holder.bind((launch.HOST, 0))
        holder.listen()
        yield holder.getsockname()[1]


def child(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Starts `program` instead of Streamlit, with the port as its argument."""
    monkeypatch.setattr(
        launch, "_command", lambda port, at: [sys.executable, "-c", program, str(port)]
    )


def test_a_free_port_is_the_usual_one_or_any_other(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    monkeypatch.setattr(launch, "PORT", taken)
    other = launch.free_port()
    assert other != taken
    assert launch.is_free(other) and not launch.is_free(taken)
    monkeypatch.setattr(launch, "PORT", other)
    assert launch.free_port() == other


def test_a_port_in_use_is_refused_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    with pytest.raises(UserError, match=f"Port {taken} is in use"):
        launch.launch(port=taken)
    monkeypatch.setenv("PORT", str(taken))
    with pytest.raises(UserError, match=f"Port {taken} is in use"):
        launch.launch()


@pytest.mark.parametrize("text", ["0", "65536", "eighty", "-1"])
def test_a_port_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("PORT", text)
    with pytest.raises(UserError, match="is not a port") as caught:
        launch.launch()
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": ":0", "CI": "true"}, False),
        ("linux", {"DISPLAY": ":0", "ROBUSTVIZ_BROWSER": "0"}, False),
        ("linux", {"SSH_CONNECTION": "1 2 3 4"}, False),
        ("win32", {}, True),
        ("darwin", {}, True),
        ("darwin", {"SSH_CONNECTION": "1 2 3 4"}, False),
        ("win32", {"CI": "true"}, False),
    ],
)
def test_a_browser_is_opened_only_where_one_would_be_seen(
    monkeypatch: pytest.MonkeyPatch, system: str, environment: dict[str, str], expected: bool
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.has_desktop() is expected


def test_without_streamlit_the_launcher_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Streamlit is not installed: run `make app`"):
        launch.launch()


def test_a_copy_without_the_app_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    with pytest.raises(UserError, match=r"There is no app.py in .*: install robustviz again"):
        launch.launch()


def test_a_server_that_dies_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "print('a reason'); raise SystemExit(3)")
    with pytest.raises(UserError, match=r"could not be started \(exit status 3\):\n  a reason"):
        launch.launch(browser=False)


def test_a_server_that_never_answers_is_given_up_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []

    class Spy(launch._Server):
        def __init__(self, port: int, network: object = None) -> None:
            super().__init__(port)
            started.append(self.process)
            assert eventually(lambda: self._last)  # The program is running but does not answer.

    monkeypatch.setattr(launch, "_Server", Spy)
    monkeypatch.setattr(launch, "PATIENCE", 1.0)
    child(monkeypatch, "import time; print('still busy', flush=True); time.sleep(60)")
    with pytest.raises(UserError, match="did not answer within 1 seconds:\n  still busy"):
        launch.launch(browser=False)
    assert started[0].poll() is not None


def test_somebody_taking_the_port_in_between_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []

    def command(port: int, at: str) -> list[str]:
        tries.append(port)
        return [
            sys.executable,
            "-c",
            "print('Port 1 is not available'); raise SystemExit(1)" if len(tries) == 1 else FAKE,
            str(port),
        ]

    monkeypatch.setattr(launch, "_command", command)
    with pytest.raises(UserError, match="ended unexpectedly"):
        launch.launch(browser=False)
    assert len(tries) == 2


def test_the_address_is_told_the_browser_opened_and_the_end_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    child(monkeypatch, FAKE)
    told: list[str] = []
    opened: list[str] = []
    pumped: list[int] = []
    monkeypatch.setattr(launch, "_open", opened.append)
    monkeypatch.setattr(queue, "pump", lambda: pumped.append(1))
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=r"ended unexpectedly \(exit status 5\):\n  the last words"):
        launch.launch(browser=True, tell=told.append)
    assert len(told) == 1
    assert re.fullmatch(r"robustviz is at http://127\.0\.0\.1:\d+", told[0])
    assert opened == [told[0].split()[-1]]
    assert pumped == [1]
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_queue_that_cannot_be_read_does_not_keep_the_app_from_starting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise UserError("the disk is full")

    monkeypatch.setattr(queue, "pump", broken)
    child(monkeypatch, FAKE)
    with pytest.raises(UserError, match="ended unexpectedly"):
        launch.launch(browser=False)


def test_paths_meant_from_here_stay_what_they_mean(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTVIZ_RUNS", "mine")
    monkeypatch.setenv("ROBUSTVIZ_DATA", "")
    found = launch._environment()
    assert Path(found["ROBUSTVIZ_RUNS"]) == tmp_path / "mine"
    assert found["ROBUSTVIZ_DATA"] == ""
    assert found["PYTHONPATH"].split(os.pathsep)[0] == str(paths.ROOT)


def test_the_flags_exist_in_this_streamlit() -> None:
    from streamlit import config

    known = config.get_config_options()
    flags = [word[2:].split("=")[0] for word in launch._command(1) if word.startswith("--")]
    assert len(flags) >= 6
    assert not [flag for flag in flags if flag not in known]


@pytest.mark.long
@pytest.mark.skipif(
    os.name == "nt", reason="Windows sends Ctrl-C to a whole console, the test's own included"
)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_app_starts_from_anywhere_answers_here_only_and_ends_quietly(
    tmp_path: Path, port: int, name: str
) -> None:
    own = {
        "PYTHONPATH": str(paths.ROOT),
        "ROBUSTVIZ_RUNS": "mine",
        "HTTP_PROXY": "http://127.0.0.1:9",
        "PORT": str(port),
    }
    # A shell that starts a program with & makes it ignore SIGINT.
    with (
        open(tmp_path / "errors", "w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", "robustviz", "app"],
            cwd=tmp_path,
            env=os.environ | own,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as app,
    ):
        try:
            assert app.stdout is not None
            line = app.stdout.readline()
            assert line == f"robustviz is at http://{launch.HOST}:{port}\n"
            asked = http.client.HTTPConnection(launch.HOST, port, timeout=120)
            asked.request("GET", "/")
            assert b"Streamlit" in asked.getresponse().read()
            asked.close()
            outside = [address for address in _own_addresses() if not _closed(address, port)]
            app.send_signal(getattr(signal, name))
            rest, _ = app.communicate(timeout=120)
        finally:
            app.kill()
        app.wait()
        errors.seek(0)
        said = errors.read()
    assert app.returncode == 0, said
    assert rest == ""
    assert "Traceback" not in said
    assert not outside
    assert eventually(lambda: launch.is_free(port))
    assert not (paths.ROOT / "mine").exists()


def _own_addresses() -> set[str]:
    import psutil

    found = {
        entry.address
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family == socket.AF_INET
    }
    return {address for address in found if not address.startswith("127.")}


def _closed(address: str, port: int) -> bool:
    with socket.socket() as caller:
        caller.settimeout(1)
        return caller.connect_ex((address, port)) != 0


@pytest.mark.long
def test_a_server_ends_with_its_launcher_however_that_ends(tmp_path: Path, port: int) -> None:
    launcher = start(tmp_path, port)
    try:
        server = next(
            child for child in launcher.children(recursive=True) if "streamlit" in child.cmdline()
        )
        launcher.kill()
        assert not psutil.wait_procs([server], timeout=60)[1]
        assert launch.is_free(port)
    finally:
        end(launcher)


@pytest.mark.long
def test_two_launchers_never_announce_one_address(tmp_path: Path) -> None:
    both = [start(tmp_path / name, None) for name in ("one", "other")]
    try:
        said = [(tmp_path / name / "log").read_text() for name in ("one", "other")]
        assert len({re.search(r"http://\S+", text).group() for text in said}) == 2
    finally:
        for one in both:
            end(one)


def start(folder: Path, port: int | None, *more: str) -> psutil.Popen:
    """Starts `python -m robustviz app` and returns once it has printed its address."""
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {"ROBUSTVIZ_BROWSER": "0", "ROBUSTVIZ_RUNS": str(folder), "PYTHONUNBUFFERED": "1"}
    chosen = {"PORT": str(port)} if port else {}
    inherited = {name: value for name, value in os.environ.items() if name != "PORT"}
    with open(folder / "log", "wb") as log:
        made = psutil.Popen(
            [sys.executable, "-m", "robustviz", "app", "--no-browser", *more],
            cwd=Path(__file__).resolve().parents[2],
            env=inherited | quiet | chosen,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    patience = time.monotonic() + 200
    while (
        not re.search("robustviz is at|Join at", (folder / "log").read_text())
        and time.monotonic() < patience
    ):
        assert made.poll() is None, (folder / "log").read_text()
        time.sleep(0.1)
    return made


def end(launcher: psutil.Popen) -> None:
    """Ends a launcher and the processes it started."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for one in [*launcher.children(recursive=True), launcher]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    launcher.wait(30)


@pytest.mark.long
def test_a_class_joins_by_the_networks_address_and_only_the_teacher_by_the_link(
    tmp_path: Path,
) -> None:
    launcher = start(tmp_path, None, "--class")
    try:
        said = (tmp_path / "log").read_text()
        host, port = re.search(r"Join at http://([\d.]+):(\d+)", said).groups()
        assert f"http://{host}:{port}/?teacher=" in said and "█" in said
        for name, status in ((host, 200), ("127.0.0.1", 200), ("evil.example", 403)):
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            connection.request("GET", "/", headers={"Host": f"{name}:{port}"})
            assert connection.getresponse().status == status
            connection.close()
    finally:
        end(launcher)


def test_without_a_network_there_is_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(socket.socket):
        def connect(self, address: object) -> None:
            raise OSError("Network is unreachable")

    monkeypatch.setattr(launch.socket, "socket", Nowhere)
    with pytest.raises(UserError, match="not on a network that a class can join"):
        launch.Network.found()
