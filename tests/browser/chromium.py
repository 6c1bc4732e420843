"""Finds a Chromium for the browser tests, or installs one.

Run as a program (`make test` does so before pytest), it prints which browser is used, or one
sentence if there is none. It exits with 0, or with 1 if there is none and CI=true requires one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "microsoft-edge",
)
NONE = (
    "There is no Chromium, so the browser tests are skipped: install Chromium or Chrome, or name"
    " one in CHROMIUM."
)


def find() -> str | None:
    """Returns the path of a Chromium that runs, or None. $CHROMIUM is tried first, then installed
    browsers, then Playwright's.
    """
    for path in dict.fromkeys(_candidates()):
        if runs(path):
            return path
    return None


def runs(path: str) -> bool:
    """Returns whether the program starts. Ubuntu's `chromium-browser` may be a stub, and a
    downloaded browser may lack libraries.
    """
    if not Path(path).is_file():
        return False
    if os.name == "nt":  # On Windows, --version opens a window.
        return True
    said = _said([path, "--version"], 30)
    return said is not None and any(name in said for name in ("Chromium", "Chrome", "Edge"))


def _candidates() -> Iterator[str]:
    named = os.environ.get("CHROMIUM", "").strip()
    if named:
        yield shutil.which(named) or named
    for name in NAMES:
        if found := shutil.which(name):
            yield found
    for application in ("Google Chrome", "Chromium", "Microsoft Edge"):
        for folder in (Path("/Applications"), Path.home() / "Applications"):
            yield str(folder / f"{application}.app" / "Contents" / "MacOS" / application)
    for variable in ("PROGRAMFILES", "PROGRAMFILES(X86)", "LOCALAPPDATA"):
        if root := os.environ.get(variable):
            for inner in ("Google/Chrome", "Chromium", "Microsoft/Edge"):
                yield str(
                    Path(root)
                    / inner
                    / "Application"
                    / ("msedge.exe" if "Edge" in inner else "chrome.exe")
                )
    if own := _playwrights():
        yield own


def _playwrights() -> str | None:
    """Returns the path where Playwright keeps, or would keep, the Chromium it downloads."""
    # In a separate process: the synchronous API refuses to run where an event loop runs, as under
    # pytest.
    ask = (
        "from playwright.sync_api import sync_playwright as p\nwith p() as q:"
        " print(q.chromium.executable_path)"
    )
    said = _said([sys.executable, "-c", ask], 60)
    return said.strip() if said else None


def install() -> str | None:
    """Installs a Chromium and returns its path: Playwright's, or on Debian-like systems as root the
    system's. Returns None if neither works.
    """
    playwright = [sys.executable, "-m", "playwright"]
    apt = ["apt-get", "-o", "Acquire::Retries=2"]
    ways: list[list[tuple[list[str], int]]] = [[([*playwright, "install", "chromium"], 400)]]
    if shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        ways.append(
            [
                ([*apt, "update"], 200),
                ([*apt, "install", "-y", "--no-install-recommends", "chromium"], 600),
            ]
        )
        # Where the package `chromium` is only a stub: install only the libraries.
        ways.append([([*playwright, "install-deps", "chromium"], 600)])
    for way in ways:
        for command, seconds in way:
            print(
                "No Chromium yet; trying:"
                " "
                + " ".join(Path(word).name if word == sys.executable else word for word in command),
                flush=True,
            )
            if _said(command, seconds) is None:
                break
        if path := find():
            return path
    return None


def _said(command: list[str], seconds: int) -> str | None:
    """Returns the output of a command that succeeded, or None if it failed, took too long or does
    not exist.
    """
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            env=quiet,
            encoding="utf-8",
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def required() -> bool:
    """Returns whether a missing browser is a failure: in continuous integration nobody reads why a
    test was skipped.
    """
    return os.environ.get("CI", "").strip().lower() in ("1", "true", "yes")


def main() -> int:
    named = os.environ.get("CHROMIUM", "").strip()
    if named and not runs(shutil.which(named) or named):
        print(f"CHROMIUM={named} does not run; looking for another one.", flush=True)
    path = find() or install()
    print(f"Browser tests use {path}" if path else NONE, flush=True)
    if path is None and required():
        print("CI=true: the browser tests must run, so this is a failure.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
