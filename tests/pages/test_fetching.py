"""Tests images that are not on this computer: a page says what it needs and how many bytes,
downloads them when asked, and resumes a download that broke off.
"""

from __future__ import annotations

import json
import shutil

import pytest

from tests.pages.conftest import ordinary, sound, words
from tests.served import digits, served

pytestmark = pytest.mark.usefixtures("few")


@pytest.fixture
def away(visit, tmp_path, monkeypatch):
    """Creates a network whose images are not on this computer, and starts a server that has
    them.
    """
    monkeypatch.setenv("ROBUSTVIZ_DATA", str(tmp_path / "data"))
    shipped = ordinary("digits", "pgd_at")
    run = tmp_path / "runs" / "mnist-pgd-at-small-resnet-s0-12345678"
    shutil.copytree(shipped.path, run)
    info = json.loads((run / "config.json").read_text(encoding="utf-8"))
    images = {"classes": 10, "channels": 1, "size": 28, "names": [*"0123456789"]}
    info |= {"data": {"key": "mnist"}, "images": images}
    (run / "config.json").write_text(json.dumps(info), encoding="utf-8")
    with served({}) as server:
        digits(monkeypatch, server)
        yield run.name, server


def opened(visit, run: str):
    app = visit("glossary")
    app.query_params["a"] = run
    return sound(app.switch_page("../../pages/compare.py").run())


def test_a_page_says_what_it_needs_and_fetches_it_when_asked(visit, away):
    run, server = away
    app = opened(visit, run)
    assert "The test images of MNIST are not on this computer yet." in words(app)
    assert "MB from 127.0.0.1." in words(app)
    assert not server.asked  # Opening the page must not start a download.
    sound(app.button(key="fetch-images").click().run())
    assert server.asked and "not on this computer" not in words(app)
    assert app.session_state["a"] == run


def test_what_broke_off_says_so_and_goes_on(visit, away):
    run, server = away
    app = opened(visit, run)
    server.breaks = [1000, 0]
    sound(app.button(key="fetch-images").click().run())
    assert "it was interrupted after" in words(app) and "continues from there" in words(app)
    sound(app.button(key="fetch-images").click().run())
    assert "bytes=1000-" in server.asked[2:] and "not on this computer" not in words(app)


def test_another_data_set_can_still_be_chosen_and_a_class_fetches_nothing(visit, away, monkeypatch):
    run, server = away
    monkeypatch.setenv("ROBUSTVIZ_MODE", "class")
    app = opened(visit, run)
    assert "Only the teacher may fetch images here" in words(app)
    assert not [button for button in app.button if button.key == "fetch-images"]
    app.selectbox(key="data").set_value("digits").run()
    assert "not on this computer" not in words(sound(app)) and not server.asked
