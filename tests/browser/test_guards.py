"""Tests the guards of the browser tests: `page` notices the problems it watches for, and a deep
link works for a server's first visitor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Page, expect


def test_a_page_that_misbehaves_is_noticed(
    page: Page,
    server: str,
    settled: Callable[..., Page],
    eventually: Callable[..., None],
    problems: list[str],
) -> None:
    page.goto(server)
    settled(page)
    assert problems == []
    page.evaluate("console.error('a complaint')")
    page.evaluate("setTimeout(() => { throw new Error('an accident') })")
    page.evaluate("fetch('http://elsewhere.invalid/').catch(() => 0)")
    for sign in (
        "a complaint",
        "an accident",
        "http://elsewhere.invalid/",  # The browser blocks this request.
    ):
        eventually(page, lambda sign=sign: any(sign in problem for problem in problems))
        assert any(sign in problem for problem in problems), problems
    # Wait until the failure of the first request is in the console too.
    page.evaluate("fetch('http://elsewhere.invalid/').catch(() => 0)")
    problems.clear()


def test_a_deep_link_is_whole_for_the_first_visitor(
    page: Page, fresh_server: Callable[..., Any], settled: Callable[..., Page]
) -> None:
    app = fresh_server()
    page.goto(f"{app.url}/glossary")
    settled(page)
    expect(page.get_by_role("link", name="Glossary")).to_be_visible()
    expect(page.get_by_role("link", name="Start")).to_be_visible()
    assert "Traceback" not in app.said()


def test_a_computer_set_to_dark_gets_the_dark_theme(
    dark_page: Page, server: str, settled: Callable[..., Page]
) -> None:
    dark_page.goto(server)
    settled(dark_page)
    assert (
        dark_page.get_by_test_id("stApp").evaluate("e => getComputedStyle(e).colorScheme") == "dark"
    )
