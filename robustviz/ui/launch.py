"""Starts the app, in the same way from `make app`, from a terminal on Windows and from a test.

Streamlit runs in a child process, because it reads its settings from a command line and needs the
main thread. The launcher chooses the port, waits until the server answers, and ends the server when
the launcher itself exits.
"""

from __future__ import annotations

import collections
import contextlib
import http.client
import importlib.util
import io
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from robustviz import paths, plugins
from robustviz.runs import queue
from robustviz.types import UserError

HOST = "127.0.0.1"
PORT = 8501  # Streamlit's default, so that old bookmarks work
# seconds until a server must answer: a first start on a slow disk compiles every package
PATIENCE = 120.0
GRACE = 10.0  # seconds that a server has to end by itself


def launch(
    *,
    port: int | None = None,
    browser: bool | None = None,
    tell: Callable[[str], object] = print,
    shared: bool = False,
) -> int:
    """Run the app until it is stopped. Returns 0 if it was stopped by Ctrl-C or a signal such as
    SIGTERM.

    `port`: use exactly this one; None: the one in the environment variable PORT, else 8501, else
    any free one. `browser`: whether to open a browser; None: only on a desktop. `tell` gets one
    line with the address. `shared`: let a class on the local network join; `tell` then gets the
    address to join, a QR code for phones and the teacher's link. Raises UserError if the app cannot
    start or ends by itself.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise UserError(
            f"Streamlit is not installed: run `make app`, or `python -m {paths.INSTALL}`."
        )
    if not (paths.ROOT / "app.py").is_file():
        raise UserError(f"There is no app.py in {paths.ROOT}: install robustviz again.")
    fixed = _asked_port(port)
    with contextlib.suppress(Exception):  # a damaged queue must not stop the app from starting
        queue.pump()
    try:
        network = Network.found() if shared else None
        with _signals_as_ctrl_c(), contextlib.closing(_start(fixed, network)) as server:
            home = server.address
            if network is None:
                tell(f"robustviz is at {server.address}")
            else:
                tell(network.invitation(server.port))
                home = f"{server.address}/?teacher={network.token}"
            sys.stdout.flush()
            if has_desktop() if browser is None else browser:
                _open(home)
            server.echo()
            while server.process.poll() is None:
                time.sleep(0.2)  # not wait(), which Ctrl-C does not interrupt on Windows
    except KeyboardInterrupt:
        return 0
    raise UserError(
        f"The app ended unexpectedly (exit status {server.process.returncode}){server.last_words()}"
    )


@dataclass(frozen=True)
class Network:
    """What a class needs to join: this computer's address on the local network, and the token that
    identifies the teacher, valid once.
    """

    host: str
    token: str

    @classmethod
    def found(cls) -> Network:
        """Look up the address of this computer on the local network, and make a new token. Raises
        UserError if this computer is not on a network.
        """
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # finds the route, sends nothing
                host = str(probe.getsockname()[0])
            except OSError as error:
                raise UserError(
                    "This computer is not on a network that a class can join: connect it, or"
                    " start the app without --class."
                ) from error
        return cls(host, secrets.token_urlsafe(18))

    def environment(self) -> dict[str, str]:
        """The environment variables that the server needs to serve a class."""
        more = filter(None, [os.environ.get("ROBUSTVIZ_HOSTS"), self.host, socket.gethostname()])
        return {
            "ROBUSTVIZ_MODE": "class",
            "ROBUSTVIZ_TOKEN": self.token,
            "ROBUSTVIZ_HOSTS": ",".join(more),
            "ROBUSTVIZ_JOIN": self.host,
        }

    def invitation(self, port: int) -> str:
        """The text to print: the address for the class, with a QR code if segno is installed, and
        the link for the teacher only.
        """
        address = f"http://{self.host}:{port}"
        return (
            f"{_picture(address)}Join at {address}\nTeacher, open this link once:"
            f" {address}/?teacher={self.token}\nEverybody on this network can look; only the"
            " teacher trains, stops and removes."
        )


def _picture(address: str) -> str:
    """The address as a QR code for a terminal; empty if the package segno is not installed."""
    try:
        import segno
    except ImportError:
        return ""
    out = io.StringIO()
    segno.make(address, micro=False).terminal(out=out, compact=True)
    return out.getvalue()


def has_desktop() -> bool:
    """Whether a browser opened from here would be visible: on a desktop, but not on a test machine
    or in a remote shell. Also false if `ROBUSTVIZ_BROWSER` is 0, no, false or off.
    """
    if (
        os.environ.get("ROBUSTVIZ_BROWSER", "").strip().lower() in ("0", "no", "false", "off")
        or "CI" in os.environ
    ):
        return False
    return (
        "SSH_CONNECTION" not in os.environ
        if sys.platform.startswith(("win", "darwin"))
        else bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    )


def free_port() -> int:
    """8501 if it is free, else a free port that the system chooses."""
    if is_free(PORT):
        return PORT
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this computer."""
    # on macOS a port can be bound although a server listens on all addresses, so connect first
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.3):
        return False
    with contextlib.suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False


def _asked_port(port: int | None) -> int | None:
    """The port that the person requires, as `port` or in the environment variable PORT; None if any
    will do. Raises UserError if it is no valid port or not free.
    """
    text = os.environ.get("PORT", "").strip() if port is None else str(port)
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise UserError(
            f"{'PORT=' if port is None else ''}{text} is not a port; write a number from 1 to"
            " 65535, or leave it out.",
            code=2,
        )
    if not is_free(int(text)):
        raise UserError(
            f"Port {text} is in use or not permitted: choose another one, or leave it out to use"
            " a free one."
        )
    return int(text)


class _Server:
    """A Streamlit server in a child process, started by creating the object; its last twelve lines
    of output are stored for error messages.
    """

    def __init__(self, port: int, network: Network | None = None) -> None:
        self.port = port
        self.address = f"http://{HOST}:{port}"
        self._sign = secrets.token_hex(8)  # tells its answers from those of another server
        self._last: collections.deque[str] = collections.deque(maxlen=12)
        self._echo = False
        self._lock = threading.Lock()
        self.process = subprocess.Popen(
            _command(port, "0.0.0.0" if network else HOST),
            cwd=paths.ROOT,
            env=_environment()
            | {"ROBUSTVIZ_SIGN": self._sign}
            | (network.environment() if network else {}),
            stdin=subprocess.PIPE,  # closes when this process ends, in whatever way
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        assert self.process.stdin is not None
        self._leash = self.process.stdin
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                with self._lock:
                    if line.strip():
                        self._last.append(line.rstrip())
                    if self._echo:
                        self._say(line)

    def echo(self) -> None:
        """Print the server's stored lines of output to standard error, and from now on each new
        one.
        """
        with self._lock:
            self._say("".join(f"{line}\n" for line in self._last))
            self._echo = True

    @staticmethod
    def _say(line: str) -> None:
        # a closed terminal must not stop this thread
        with contextlib.suppress(OSError, ValueError):
            print(line, end="", file=sys.stderr, flush=True)

    def answers(self) -> bool:
        """Whether this server answers that it is healthy; another server on the same port does not
        count. No proxy is used, because one in the environment may not reach this computer.
        """
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            contextlib.closing(
                http.client.HTTPConnection(HOST, self.port, timeout=2)
            ) as connection,
        ):
            connection.request("GET", "/_stcore/health")
            said = connection.getresponse()
            return said.status == 200 and said.getheader("x-robustviz") == self._sign
        return False

    def last_words(self) -> str:
        """The end of an error message about a server that has ended: a full stop, or a colon and
        the server's last lines of output.
        """
        self._leash.close()  # the process has ended
        self._reader.join(1)  # its last output may still be in the pipe
        with self._lock:
            return "\n  ".join([":", *self._last]) if self._last else "."

    def close(self) -> None:
        """End the server: terminate it, and kill it if it has not ended after ten seconds.
        Trainings continue; they are separate processes.
        """
        self._echo = False  # do not print Python's traceback for Ctrl-C
        for firmly in (self.process.terminate, self.process.kill):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                firmly()
            # a second Ctrl-C ends the waiting
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self.process.wait(GRACE)
        self._leash.close()
        self._reader.join(1)


def _command(port: int, address: str = HOST) -> list[str]:
    """The command line that starts Streamlit. It has the settings as flags, which override those in
    the person's own Streamlit configuration.
    """
    return [
        *(sys.executable, "-m", "streamlit", "run", "app.py"),
        *(
            f"--{name}={value}"
            for name, value in {
                "server.address": address,
                "server.port": port,
                "server.headless": "true",  # the launcher opens the browser
                "server.showEmailPrompt": "false",
                "server.fileWatcherType": "none",
                "browser.gatherUsageStats": "false",
                "logger.hideWelcomeMessage": "true",
            }.items()
        ),
    ]


def _environment() -> dict[str, str]:
    """The environment of the child process. It runs in the folder of app.py, so relative paths are
    made absolute here.
    """
    return {
        **os.environ,
        **{
            name: os.path.abspath(os.path.expanduser(os.environ[name]))
            for name in ("ROBUSTVIZ_RUNS", "ROBUSTVIZ_DATA")
            if os.environ.get(name)
        },
        plugins.VARIABLE: os.pathsep.join(map(_absolute, plugins.in_environment())),
        "PYTHONPATH": os.pathsep.join(
            filter(None, [str(paths.PACKAGE.parent), os.environ.get("PYTHONPATH")])
        ),
        # glibc keeps freed memory in a pool for each thread, which is much for forty sessions
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8:replace",
    }


def _absolute(source: str) -> str:
    """A plug-in's path made absolute; a module's name unchanged."""
    return os.path.abspath(os.path.expanduser(source)) if os.path.exists(source) else source


def _start(fixed: int | None, network: Network | None = None) -> _Server:
    """Start a server, wait until it answers, and return it. If another program takes its port
    meanwhile, another port is tried, three in all, unless the port is `fixed`. Raises UserError if
    no server answers.
    """
    for _ in range(3):
        server = _Server(fixed or free_port(), network)
        deadline = time.monotonic() + PATIENCE
        try:
            while server.process.poll() is None and time.monotonic() < deadline:
                if server.answers():
                    return server
                time.sleep(0.1)
        except BaseException:
            server.close()
            raise
        if server.process.returncode is None:
            server.close()
            raise UserError(
                f"The app did not answer within {PATIENCE:.0f} seconds{server.last_words()}"
            )
        words = server.last_words()
        if fixed or "is not available" not in words:
            break  # else another program took the port meanwhile
    raise UserError(
        f"The app could not be started (exit status {server.process.returncode}){words}"
    )


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """A context manager: inside it a closed terminal and a plain `kill` end the app like Ctrl-C, so
    that no server is left running.
    """

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop)
        # no system has all three signals
        for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP", "SIGBREAK"))
        # signals that are ignored stay ignored, as under `nohup`
        if threading.current_thread() is threading.main_thread()
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(address: str) -> None:
    """Open the address in the person's browser, in a thread, because some browsers block the
    caller.
    """
    import webbrowser

    def work() -> None:
        # the address has been printed, so a browser that fails does not matter
        with contextlib.suppress(Exception):
            webbrowser.open(address)

    threading.Thread(target=work, daemon=True).start()
