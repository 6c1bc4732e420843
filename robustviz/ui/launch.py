"""How the app is started: the same way from `make app`, from a terminal on Windows and from a test.

Streamlit runs as a child process, because it takes its settings from a command line and wants the
main thread. The launcher chooses the port, keeps the server on this computer, waits until it
answers, and ends it with itself.
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
PORT = 8501  # Streamlit's own, so that a bookmark goes on working
# seconds a server gets to answer: a first start on a slow disk compiles every package
PATIENCE = 120.0
GRACE = 10.0  # seconds a server gets to end by itself


def launch(
    *,
    port: int | None = None,
    browser: bool | None = None,
    tell: Callable[[str], object] = print,
    shared: bool = False,
) -> int:
    """Run the app until it is stopped; 0 where Ctrl-C stopped it.

    `port`: that one and no other; None: the environment's PORT, else 8501, else any free one.
    `browser`: open one; None: where there is a desktop. `tell` gets one line, the address.
    `shared`: for a class on the local network; `tell` gets the address to join, a picture of it for
    phones, and the teacher's link. Raises UserError where the app cannot start.
    """
    if importlib.util.find_spec("streamlit") is None:
        raise UserError(
            f"Streamlit is not installed: run `make app`, or `python -m {paths.INSTALL}`."
        )
    if not (paths.ROOT / "app.py").is_file():
        raise UserError(f"There is no app.py in {paths.ROOT}: install robustviz again.")
    fixed = _asked_port(port)
    with contextlib.suppress(Exception):  # a queue that cannot be read must not keep the app away
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
                time.sleep(0.2)  # not wait(): on Windows Ctrl-C does not end that
    except KeyboardInterrupt:
        return 0
    raise UserError(
        f"The app ended unexpectedly (exit status {server.process.returncode}){server.last_words()}"
    )


@dataclass(frozen=True)
class Network:
    """A class's way in: this computer's address on the local network, and the token by which the
    teacher is known, good once.
    """

    host: str
    token: str

    @classmethod
    def found(cls) -> Network:
        """Raises UserError where this computer is on no network."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # sends nothing: it asks which way it would go
                host = str(probe.getsockname()[0])
            except OSError as error:
                raise UserError(
                    "This computer is on no network that a class could join: connect it, or start"
                    " the app without --class."
                ) from error
        return cls(host, secrets.token_urlsafe(18))

    def environment(self) -> dict[str, str]:
        """What the server must know."""
        more = filter(None, [os.environ.get("ROBUSTVIZ_HOSTS"), self.host, socket.gethostname()])
        return {
            "ROBUSTVIZ_MODE": "class",
            "ROBUSTVIZ_TOKEN": self.token,
            "ROBUSTVIZ_HOSTS": ",".join(more),
        }

    def invitation(self, port: int) -> str:
        """What is printed: for the class, and for the teacher alone."""
        address = f"http://{self.host}:{port}"
        return (
            f"{_picture(address)}Join at {address}\n"
            f"Teacher, open this once: {address}/?teacher={self.token}\n"
            "Everybody on this network can look; only the teacher trains, stops and removes."
        )


def _picture(address: str) -> str:
    """The address as a QR code for a terminal; nothing without the package segno."""
    try:
        import segno
    except ImportError:
        return ""
    out = io.StringIO()
    segno.make(address, micro=False).terminal(out=out, compact=True)
    return out.getvalue()


def has_desktop() -> bool:
    """Whether a browser opened from here would be seen: a desktop, no test machine, no remote
    shell.
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
    """8501 where nobody has it, else a port that the system picks."""
    if is_free(PORT):
        return PORT
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this computer."""
    # a listener on all addresses does not keep macOS from binding one of them
    with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=0.3):
        return False
    with contextlib.suppress(OSError), socket.create_server((HOST, port)):
        return True
    return False


def _asked_port(port: int | None) -> int | None:
    """The port that the person insists on, known to be free; None: any will do."""
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
            f"Port {text} is in use, or not open to you: choose another one, or leave it out and a"
            " free one is taken."
        )
    return int(text)


class _Server:
    """Streamlit in a child process, what it last said, and how to end it."""

    def __init__(self, port: int, network: Network | None = None) -> None:
        self.port = port
        self.address = f"http://{HOST}:{port}"
        self._sign = secrets.token_hex(8)  # by which its answers are known from another server's
        self._last: collections.deque[str] = collections.deque(maxlen=12)
        self._echo = False
        self._lock = threading.Lock()
        self.process = subprocess.Popen(
            _command(port, "0.0.0.0" if network else HOST),
            cwd=paths.ROOT,
            env=_environment()
            | {"ROBUSTVIZ_SIGN": self._sign}
            | (network.environment() if network else {}),
            stdin=subprocess.PIPE,  # it closes with this process, however that ends
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
        """Pass on what the server says from now on, and what it has said so far."""
        with self._lock:
            self._say("".join(f"{line}\n" for line in self._last))
            self._echo = True

    @staticmethod
    def _say(line: str) -> None:
        # a closed terminal must not stop the reading
        with contextlib.suppress(OSError, ValueError):
            print(line, end="", file=sys.stderr, flush=True)

    def answers(self) -> bool:
        """Whether this very server says that it is well: another one may have taken the port.
        Directly: a proxy of the environment does not know this computer.
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
        """The end of a sentence: a full stop, or a colon and the last lines that the server
        said.
        """
        self._leash.close()  # it has ended
        self._reader.join(1)  # what it said on its way out may still be in the pipe
        with self._lock:
            return "\n  ".join([":", *self._last]) if self._last else "."

    def close(self) -> None:
        """End the server: politely, then firmly. Trainings go on; they are no part of it."""
        self._echo = False  # Python's own words about Ctrl-C are a traceback
        for firmly in (self.process.terminate, self.process.kill):
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                firmly()
            # Ctrl-C again while waiting means: now
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
                self.process.wait(GRACE)
        self._leash.close()
        self._reader.join(1)


def _command(port: int, address: str = HOST) -> list[str]:
    """Streamlit's command line. Flags, not only `.streamlit/config.toml`: they win over a person's
    own settings.
    """
    return [
        *(sys.executable, "-m", "streamlit", "run", "app.py"),
        *(
            f"--{name}={value}"
            for name, value in {
                "server.address": address,
                "server.port": port,
                "server.headless": "true",  # the launcher opens the browser once the server answers
                "server.showEmailPrompt": "false",
                "server.fileWatcherType": "none",
                "browser.gatherUsageStats": "false",
                "logger.hideWelcomeMessage": "true",
            }.items()
        ),
    ]


def _environment() -> dict[str, str]:
    """The child's environment. It runs where app.py lies, so paths that were meant from here become
    absolute.
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
        # glibc keeps a pool of freed memory for each thread that asked; forty sessions are many
        "MALLOC_ARENA_MAX": os.environ.get("MALLOC_ARENA_MAX", "2"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8:replace",
    }


def _absolute(source: str) -> str:
    """A plug-in's path as it is meant here; a module's name stays."""
    return os.path.abspath(os.path.expanduser(source)) if os.path.exists(source) else source


def _start(fixed: int | None, network: Network | None = None) -> _Server:
    """A server that answers. Raises UserError where none does."""
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
            break  # else somebody took the port in between
    raise UserError(
        f"The app could not be started (exit status {server.process.returncode}){words}"
    )


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    """Make a closed terminal and a plain `kill` end the app as Ctrl-C does, so that no server is
    left behind.
    """

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop)
        # no system has all three
        for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP", "SIGBREAK"))
        # `nohup` goes on ignoring
        if threading.current_thread() is threading.main_thread()
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open(address: str) -> None:
    """Open the address in the person's browser, aside: some browsers hold their caller."""
    import webbrowser

    def work() -> None:
        # the address has been printed; a browser that fails is no reason to stop
        with contextlib.suppress(Exception):
            webbrowser.open(address)

    threading.Thread(target=work, daemon=True).start()
