"""Fixtures for the browser tests: a running app and a real browser.

`server` is one app for all tests; `fresh_server(...)` starts an app that nobody has visited, with
its own environment; `page` is a browser page that fails its test on any console error, page error,
lost drawing context or request to another host; `settled(page)` waits until the app has finished.
Without a Chromium the tests are skipped with a reason; under CI=true that is a failure.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    WebSocket,
    expect,
)

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
# Tests wait for states. These are the longest waits, long because the machine may be busy.
PATIENCE = 240  # Seconds for a server to answer.
WAIT = 120_000  # Milliseconds for anything on a page.
LONGEST = 900  # Seconds for a test.
HOST = "127.0.0.1"

# On a deep link Streamlit's page first sends these requests below the address and then to the root.
# The browser reports an error for the first one.
PROBING = re.compile(rf"http://{re.escape(HOST)}:\d+/[a-z0-9-]+/_stcore/(health|host-config)")

# Software rendering: without it WebGL charts stay blank on a machine without a graphics card.
ARGUMENTS = [
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-dev-shm-usage",
    "--disable-gpu-compositing",  # Drawing pages by SwiftShader takes a quarter more time.
]


def _chromium() -> Any:
    spec = spec_from_file_location("robustviz_tests_chromium", HERE / "chromium.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


chromium = _chromium()
_found: list[str | None] = []


def _browser() -> str | None:
    if not _found:
        _found.append(chromium.find())
    return _found[0]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks the tests of this folder, puts them first because they take longest, and skips them if
    there is no browser.
    """
    here = [item for item in items if HERE in item.path.parents]
    for item in here:
        item.add_marker(pytest.mark.browser)
        item.add_marker(pytest.mark.timeout(LONGEST))
    items.sort(key=lambda item: HERE not in item.path.parents)
    if not here or config.option.collectonly or _browser():
        return
    if chromium.required():
        raise pytest.UsageError(
            "CI=true, and there is no Chromium for the browser tests: install one, or name it in"
            " CHROMIUM."
        )
    for item in here:
        item.add_marker(
            pytest.mark.skip(
                reason="no Chromium on this machine; install one, or name it in CHROMIUM"
            )
        )


# The app.


class Server:
    """A process `python -m robustviz app` on a free port, with its own folder of runs. `end` stops
    it and everything it started.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        self.log = folder / "server.log"
        quiet = {
            "ROBUSTVIZ_RUNS": str(folder / "runs"),
            "ROBUSTVIZ_BROWSER": "0",
            "PYTHONUNBUFFERED": "1",
        }
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name != "PORT" and not name.startswith("STREAMLIT_")
        }
        with open(self.log, "wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "robustviz", "app", "--no-browser"],
                cwd=REPOSITORY,
                env=inherited | quiet | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.url = self._address()

    def _address(self) -> str:
        """Waits until the launcher prints the server's address, and returns it."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := re.search(rf"http://{re.escape(HOST)}:\d+", self.said()):
                return found.group()
            if self.process.poll() is not None:
                break
            time.sleep(0.1)
        self.end()
        raise RuntimeError(f"The app did not start:\n{self.said()}")

    def said(self) -> str:
        """Returns the server's output so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def end(self) -> None:
        """Ends the launcher, Streamlit and the trainings, each by its recorded process."""
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [*self.process.children(recursive=True), self.process]
            with contextlib.suppress(psutil.Error):
                self.process.terminate()
            psutil.wait_procs(family[-1:], timeout=10)
            _, left = psutil.wait_procs(family, timeout=3)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=5)


@pytest.fixture(scope="session")
def _session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("app"))
    yield made
    made.end()


@pytest.fixture
def server(_session_server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """Yields the address of the app that all tests share, without a slash at the end. A failed test
    shows the app's log.
    """
    before = len(_session_server.said())
    yield _session_server.url
    _attach(request.node, _session_server.said()[before:])


@pytest.fixture
def server_runs(_session_server: Server) -> Path:
    """Returns the folder of the shared app's runs."""
    return _session_server.log.parent / "runs"


@pytest.fixture
def fresh_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Server]]:
    """Returns a function that starts an app that nobody has visited, such as
    `fresh_server(ROBUSTVIZ_DEMO="1").url`. The app ends with the test.
    """
    made: list[Server] = []

    def start(**environment: str) -> Server:
        made.append(Server(tmp_path_factory.mktemp("fresh"), **environment))
        return made[-1]

    yield start
    for one in made:
        one.end()
        _attach(request.node, one.said())


def _attach(item: pytest.Item, said: str) -> None:
    if said.strip():
        item.add_report_section("teardown", "app log", said[-6000:])


# The browser.


@pytest.fixture(scope="session")
def browser_type_launch_args(browser_type_launch_args: dict[str, Any]) -> dict[str, Any]:
    return browser_type_launch_args | {"executable_path": _browser(), "args": ARGUMENTS}


@pytest.fixture(scope="session")
def browser_context_args(browser_context_args: dict[str, Any]) -> dict[str, Any]:
    return browser_context_args | {
        "viewport": {"width": 1280, "height": 900},
        "reduced_motion": "reduce",
        "color_scheme": "light",
        "locale": "en-GB",
    }


class Problems(list[str]):
    """A list of the errors that the browser has reported so far. A test that provokes an error
    removes it with `problems.clear()`.
    """

    def watch(self, page: Page) -> Page:
        """Listens to a page's events, and returns the page."""
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.append(f"page error: {error}"))
        page.on("request", self._request)
        page.on("websocket", self._socket)
        page.on("crash", lambda _: self.append("the page crashed"))
        return page

    def _console(self, message: ConsoleMessage) -> None:
        url = str(message.location.get("url", ""))
        if (
            message.type == "error" and not PROBING.fullmatch(url)
        ) or "WebGL context" in message.text:
            self.append(f"console {message.type}: {message.text} ({url})")

    def _request(self, request: Request) -> None:
        self._off_host(request.url)

    def _socket(self, socket: WebSocket) -> None:
        self._off_host(socket.url)

    def _off_host(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob", "about") and parts.hostname != HOST:
            self.append(f"request to another host: {url}")


@pytest.fixture
def problems() -> Problems:
    return Problems()


@pytest.fixture(autouse=True, scope="session")
def _patient() -> None:
    expect.set_options(timeout=WAIT)


@pytest.fixture
def page(page: Page, problems: Problems) -> Iterator[Page]:
    """pytest-playwright's page, which fails the test if the browser reports any problem."""
    page.context.set_default_timeout(WAIT)
    yield problems.watch(page)
    assert not problems, "\n".join(problems)


@pytest.fixture(scope="session")
def _contexts(
    browser: Browser, browser_context_args: dict[str, Any]
) -> Iterator[dict[str, BrowserContext]]:
    """Returns a browser context for each colour scheme, which tests share: a page opens in half the
    time where the app's scripts are compiled already. Cookies and stored values are shared, too.
    """
    made = {
        scheme: browser.new_context(**browser_context_args | {"color_scheme": scheme})
        for scheme in ("light", "dark")
    }
    for context in made.values():
        context.set_default_timeout(WAIT)
    yield made
    for context in made.values():
        context.close()


@pytest.fixture(scope="module")
def _opened(
    request: pytest.FixtureRequest, _contexts: dict[str, BrowserContext], _session_server: Server
) -> Iterator[tuple[Page, Problems]]:
    """Opens the address in `request.param`, such as `attack?data=digits`, at 1280×720."""
    problems = Problems()
    page = problems.watch(_contexts["light"].new_page())
    page.set_viewport_size({"width": 1280, "height": 720})
    page.goto(f"{_session_server.url}/{request.param}")
    yield wait_until_settled(page), problems
    page.close()


@pytest.fixture
def opened(_opened: tuple[Page, Problems], server: str) -> Iterator[Page]:
    """Yields a page that all tests of a module share, because opening it takes longer than they do.
    A test must leave it as it was. A problem that the browser reports fails the test that runs.
    """
    page, problems = _opened
    yield page
    found = problems[:]
    problems.clear()
    assert not found, "\n".join(found)


@pytest.fixture
def light_page(_contexts: dict[str, BrowserContext], problems: Problems) -> Iterator[Page]:
    """As `page`, but opens sooner, and shares cookies and stored values with other tests."""
    yield from _tab(_contexts["light"], problems)


@pytest.fixture
def dark_page(_contexts: dict[str, BrowserContext], problems: Problems) -> Iterator[Page]:
    """As `light_page`, in a browser that prefers dark colours."""
    yield from _tab(_contexts["dark"], problems)


def _tab(context: BrowserContext, problems: Problems) -> Iterator[Page]:
    page = problems.watch(context.new_page())
    yield page
    page.close()
    assert not problems, "\n".join(problems)


# Waits until the browser has drawn everything and is idle.
IDLE = (
    "() => new Promise(done => requestAnimationFrame(() => requestIdleCallback(() => done(), {"
    " timeout: 5000 })))"
)


def wait_until_settled(page: Page, timeout: float = WAIT) -> Page:
    """Waits until the app is connected, its script has ended, no placeholder is left and the
    browser has drawn everything. Returns the page.
    """
    app = page.get_by_test_id("stApp")
    expect(app).to_have_attribute("data-test-connection-state", "CONNECTED", timeout=timeout)
    deadline = time.monotonic() + timeout / 1000
    quiet = 0
    while quiet < 3:  # The state flickers between a click and the rerun that it causes.
        expect(app).to_have_attribute(
            "data-test-script-state",
            "notRunning",
            timeout=max(1.0, (deadline - time.monotonic()) * 1000),
        )
        expect(page.get_by_test_id("stSkeleton")).to_have_count(
            0, timeout=max(1.0, (deadline - time.monotonic()) * 1000)
        )
        page.evaluate(IDLE)
        page.wait_for_timeout(60)
        quiet = quiet + 1 if app.get_attribute("data-test-script-state") == "notRunning" else 0
    return page


def wait_until(page: Page, fact: Callable[[], object]) -> None:
    """Waits until `fact()` is true, for facts that the browser reports through events, such as
    console messages. Playwright delivers events only while Python waits for the page.
    """
    deadline = time.monotonic() + WAIT / 1000
    while not fact() and time.monotonic() < deadline:
        page.wait_for_timeout(20)


@pytest.fixture
def eventually() -> Callable[..., None]:
    """`eventually(page, fact)`: waits until `fact()` is true, or until the longest wait has
    passed.
    """
    return wait_until


@pytest.fixture
def settled() -> Callable[..., Page]:
    """`settled(page)`: waits until the app has finished, and returns the page."""
    return wait_until_settled
