"""Fixtures for tests of the pages: a Streamlit session without a browser, with the shipped runs and
an empty folder for the user's own.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from robustviz import embedder
from robustviz.runs import folder as runs
from robustviz.runs.naming import unusual
from robustviz.views import pack

MAIN = Path(__file__).resolve().parents[2] / "robustviz" / "ui" / "main.py"


@pytest.fixture(scope="session", autouse=True)
def _one_scan() -> Iterator[None]:
    """Caches Streamlit's scan of the installed packages, which otherwise takes a third of a second
    in each session.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            manifest_scanner,
            "scan_component_manifests",
            functools.cache(manifest_scanner.scan_component_manifests),
        )
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_embedder() -> Iterator[None]:
    """Keeps the embedder process from starting, so that no test leaves a process behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedder.APP, "start", lambda: None)
        yield


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a cache folder that all tests of pages share, so that each probe of a shipped network
    runs only once.
    """
    return tmp_path_factory.mktemp("zoo-cache")


@pytest.fixture
def visit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: Path
) -> Callable[..., AppTest]:
    """Returns a function such as `visit("attack", eps="8")`, which opens a page in a new session
    with the given address parameters, runs it once and returns it.
    """
    home = tmp_path / "runs"
    monkeypatch.setenv("ROBUSTVIZ_RUNS", str(home))
    if not home.exists():
        home.mkdir()
        (home / ".zoo-cache").symlink_to(measured, target_is_directory=True)

    def go(page: str = "", **address: Any) -> AppTest:
        app = AppTest.from_file(str(MAIN), default_timeout=240)
        for name, value in address.items():
            app.query_params[name] = str(value)
        app.run()
        return app.switch_page(f"../../pages/{page}.py").run() if page else app

    return go


def words(app: AppTest) -> str:
    """Returns all text on the page."""
    kinds = (
        app.title,
        app.header,
        app.subheader,
        app.markdown,
        app.success,
        app.info,
        app.warning,
        app.error,
    )
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def screens(app: AppTest) -> list[dict[str, Any]]:
    """Returns the data of all screens on the page, in order."""
    parts = [json.loads(each.proto.json) for each in app.get("bidi_component") if each.proto.json]
    return [part for part in parts if "answer" in part]


def screen(app: AppTest) -> dict[str, Any]:
    """Returns the data of the page's first screen."""
    return screens(app)[0]


def opened(app: AppTest, view: str) -> AppTest:
    """Opens *More* of a view, reruns the page and returns it."""
    app.session_state[f"more-{view}"] = True
    return sound(app.run())


def picked(app: AppTest, name: str) -> Any:
    """Returns the widget of a picker in the title row: `img`, `a` or `b`."""
    every = [*app.number_input, *app.selectbox]
    return next(one for one in every if re.fullmatch(rf"{name}-\d+", one.key or ""))


def sound(app: AppTest) -> AppTest:
    """Checks that the page shows neither an exception nor the message for an unexpected one, and
    returns the page.
    """
    assert not app.exception, [element.message for element in app.exception]
    assert "Something unexpected" not in words(app)
    assert "Traceback" not in words(app)
    return app


def ordinary(data: str, method: str) -> runs.Run:
    """Returns the shipped run of a method on the usual network with seed 0."""
    return next(
        run
        for run in runs.all_runs()
        if run.shipped
        and not unusual(run)
        and (run.data_key, run.method_key, run.architecture) == (data, method, "small_resnet")
        and run.info["seed"] == 0
    )


@pytest.fixture
def unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the shipped pack of precomputed answers."""
    monkeypatch.setattr(pack, "FOLDER", tmp_path / "no-pack")


@pytest.fixture
def few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides all shipped networks except the usual ones, standard and adversarially trained, on
    digits and shapes.
    """
    folder = tmp_path / "zoo"
    for run in [
        ordinary(data, method) for data in ("digits", "shapes") for method in ("standard", "pgd_at")
    ]:
        shutil.copytree(run.path, folder / run.id, ignore=shutil.ignore_patterns("snapshots"))
    monkeypatch.setattr(runs, "zoo", lambda: folder)
