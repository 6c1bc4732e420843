"""Tests what people do, in a real browser: guess, attack, train, share, come back."""

from __future__ import annotations

import json
import re

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect
from streamlit.proto.BackMsg_pb2 import BackMsg

from robustviz import registry
from robustviz.runs.folder import REPOSITORY

PAGES = (
    "",
    "attack",
    "attention",
    "features",
    "soft-labels",
    "train",
    "contributions",
    "budget",
    "compare",
    "transfer",
    "your-data",
    "tour",
    "claims",
    "glossary",
)
PACK = json.loads((REPOSITORY / "checkpoints" / "story" / "story.json").read_text(encoding="utf-8"))


def choose(page: Page, name: str, option: str) -> None:
    """Chooses an option of a select box by keyboard."""
    box = page.get_by_role("combobox", name=re.compile(f"^{name}|{name}$")).first
    box.click()
    box.fill(option)
    page.get_by_role("option", name=option, exact=True).first.click()


def chart(page: Page, key: str):
    """Returns the locator of a drawn Plotly chart."""
    return page.locator(f".st-key-{key} .main-svg").first


def test_the_first_page_shows_its_pictures_at_once_without_plotly(page, server, settled):
    """The pictures must be in the answer to the browser's only message to the app. Benchmark B12
    measures how many seconds that takes.
    """
    requests: list[str] = []
    asked: list[bytes] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on(
        "websocket", lambda socket: socket.on("framesent", lambda message: asked.append(message))
    )
    page.goto(server)
    expect(page.get_by_test_id("stImage").locator("img")).to_have_count(2)
    page.wait_for_function(
        "() => [...document.querySelectorAll('[data-testid=stImage] img')].every(i => i.complete &&"
        " i.naturalWidth)"
    )
    assert sum(BackMsg.FromString(message).HasField("rerun_script") for message in asked) == 1
    settled(page)
    assert not [url for url in requests if "lotly" in url]


def test_guessing_leads_to_the_reveal(page, server, settled):
    page.goto(server)
    for number, now in enumerate(PACK["rounds"], 1):
        expect(page.get_by_text(f"Round {number} of 3")).to_be_visible()
        page.get_by_role("button", name="Left", exact=True).click()
        verdict = "Yes" if now["tampered"] == "left" else "No"
        expect(
            page.get_by_role("heading", name=f"{verdict}: the {now['tampered']}")
        ).to_be_visible()
        page.get_by_role("button", name="The result" if number == 3 else "Next round").click()
    found = sum(now["tampered"] == "left" for now in PACK["rounds"])
    expect(page.get_by_role("heading", name=f"You found {found} of 3")).to_be_visible()
    page.get_by_role("button", name="Yes", exact=True).click()
    expect(
        page.get_by_text(f"{PACK['robust']['robust_k']} of {PACK['robust']['n']}")
    ).to_be_visible()
    page.get_by_role("button", name="See the attack").click()
    expect(page.get_by_role("heading", name="How little does it take?")).to_be_visible()
    settled(page)


def test_the_first_page_leads_to_three_answers(page, server, settled):
    for question, title in (
        ("Is PART better than PGD-AT here?", "How little does it take?"),
        ("What does adversarial training do to the features?", "Do attacked images stay"),
        ("Why does a larger budget cost clean accuracy?", "Why can robustness cost accuracy?"),
    ):
        page.goto(server)
        settled(page)  # A click on a page that is still being drawn may be lost.
        page.get_by_role("button", name=question).click()
        expect(page.get_by_role("heading", name=title)).to_be_visible()
        settled(page)
        expect(page.locator(".screen .answer").first).not_to_be_empty()


def test_moving_epsilon_by_keyboard_flips_the_label(page, server, settled, problems):
    page.goto(f"{server}/attack?img=2&eps=0")
    settled(page)
    slider = page.locator(".screen input[type=range]").first
    below = page.locator(".screen figcaption").nth(1)
    expect(below).to_contain_text("✓")
    slider.focus()
    for _ in range(16):
        slider.press("ArrowRight")
    expect(below).to_contain_text("✗")
    expect(page).to_have_url(re.compile(r"eps=16"))
    settled(page)
    # On a busy machine a picture may be replaced before the browser fetches it, which is no error:
    # the final pictures must be there.
    problems[:] = [problem for problem in problems if "/media/" not in problem]
    assert page.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )


def test_an_address_brings_back_what_was_seen(page, server, settled, browser):
    page.goto(f"{server}/attack?data=digits&img=7&eps=23&attack=fgsm")
    settled(page)
    seen = page.get_by_test_id("stMain").inner_text()
    expect(page.get_by_role("combobox", name="Data set")).to_have_value("digits")
    page.get_by_role("button", name="Image 7").click()
    page.locator("[class*=st-key-img-]").get_by_role("button").last.click()
    expect(page).to_have_url(re.compile("img=8"))
    page.keyboard.press("Escape")  # Closes the picker.
    settled(page)
    later = page.get_by_test_id("stMain").inner_text()
    assert later != seen
    other = browser.new_context().new_page()
    other.goto(page.url)
    settled(other)
    assert other.get_by_test_id("stMain").inner_text() == later
    other.context.close()


def test_the_address_that_people_guess_leads_to_the_page_loss(page, server, settled):
    page.goto(f"{server}/loss?data=digits&img=3")
    expect(page).to_have_url(re.compile(r"/soft-labels\?(data=digits&img=3|img=3&data=digits)$"))
    settled(page)
    expect(page.get_by_role("link", name="Loss", exact=True)).to_have_count(1)


def test_a_deep_link_may_be_the_first_request_of_a_server(page, fresh_server, settled):
    page.goto(f"{fresh_server().url}/attack?img=2")
    expect(page.get_by_role("heading", name="How little does it take?")).to_be_visible()
    settled(page)
    expect(page.locator(".st-key-menu-row").get_by_role("link")).to_have_count(len(PAGES))


def test_a_short_run_is_paused_survives_a_reload_resumes_and_ends(
    page, server, settled, server_runs, problems
):
    page.goto(f"{server}/train")
    settled(page)
    choose(page, "Data", registry.get("data", "digits").label)
    settled(page)
    choose(page, "Method", "No adversarial training · Standard")
    settled(page)
    page.get_by_text("More settings").click()
    for setting, value in (("n train", "200"), ("epochs", "30")):
        page.get_by_label(setting, exact=True).fill(value)
        page.get_by_label(setting, exact=True).press("Enter")
        settled(page)
    page.get_by_role("button", name="Train", exact=True).click()
    expect(page.get_by_text(re.compile(r"Epoch ([2-9]|[12]\d) of 30")).first).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    run = next(path for path in server_runs.iterdir() if path.name.startswith("digits-standard"))
    before = len((run / "metrics.jsonl").read_text().splitlines())
    page.reload()
    settled(page)
    page.get_by_test_id("stDataFrame").scroll_into_view_if_needed()
    resume = page.get_by_role("button", name="Resume")
    expect(resume).to_be_visible()
    resume.click()
    expect(page.get_by_text("Tested:")).to_be_visible(timeout=600_000)
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    assert before < len((run / "metrics.jsonl").read_text().splitlines()) == 30
    page.get_by_role("button", name="Attack it").click()
    expect(page.get_by_role("heading", name="How little does it take?")).to_be_visible()
    settled(page)
    # A strip of pictures may have been replaced before the browser fetched it.
    problems[:] = [problem for problem in problems if "/media/" not in problem]


# Light is what the first screens are examined in; here it goes to the slow suite.
THEMES = [pytest.param("light", marks=pytest.mark.slow), "dark"]


def serious(page):
    """Returns the violations on the current page that axe calls serious or critical."""
    found = Axe().run(page).response["violations"]
    return [
        f"{one['id']}: {one['help']} {[node['target'] for node in one['nodes']][:3]}"
        for one in found
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("theme", THEMES)
def test_the_red_team_is_told_from_the_defences_and_its_form_is_accessible(
    request, theme, server, settled
):
    page: Page = request.getfixturevalue(f"{theme}_page")
    page.goto(f"{server}/train")
    settled(page)
    choose(page, "Method", "Red team · Model alignment")
    settled(page)
    expect(page.get_by_text("it is not a defence")).to_be_visible()
    page.get_by_text("More settings").click()
    expect(page.get_by_label("weight decay", exact=True)).to_be_visible()
    found = serious(page)
    assert not found, "\n".join(found)


def test_what_is_chosen_in_settings_is_legible_in_dark(dark_page, server, settled):
    dark_page.goto(f"{server}/attention?data=digits&img=5")
    settled(dark_page)
    dark_page.get_by_role("button", name="Settings").click()
    expect(dark_page.locator('button[data-selected="true"]').first).to_be_visible()
    settled(dark_page)
    found = serious(dark_page)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("theme", THEMES)
def test_what_can_be_taken_home_is_legible(request, theme, server, settled):
    page: Page = request.getfixturevalue(f"{theme}_page")
    page.goto(f"{server}/attack?data=digits&img=5")
    settled(page)
    page.locator(".st-key-home-bars-a").get_by_role("button").click()
    expect(page.get_by_text("In a notebook:")).to_be_visible()
    settled(page)
    found = serious(page)
    assert not found, "\n".join(found)
