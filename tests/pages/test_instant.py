"""Tests that first screens need no torch: in a process where importing torch fails, each page shows
its first screen for the default pair from the shipped pack.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from robustviz.runs import folder
from robustviz.ui import networks
from robustviz.views import pack
from robustviz.views.start import pack as maker

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENS = (  # The pages by their address.
    "attack",
    "attention",
    "features",
    "soft-labels",
    "transfer",
    "contributions",
    "budget",
    "tour",
    "claims",
    "compare",
)
CODE = """
import json, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} was asked for")
sys.meta_path.insert(0, Without())
from robustviz import embedder
from robustviz.ui import server
from streamlit.testing.v1 import AppTest
embedder.APP.start = lambda: None
for name in server.first():
    server.imports.load(name)
for page, address in json.loads(sys.argv[1]):
    app = AppTest.from_file(str(server.MAIN), default_timeout=240).run()
    for name, value in address.items():
        app.query_params[name] = value
    pages = app._registered_pages.items()
    app._page_hash = next(key for key, each in pages if each["url_pathname"] == page)
    app.run()
    parts = [json.loads(part.proto.json) for part in app.get("bidi_component")]
    found = {
        "screens": [part for part in parts if "answer" in part],
        "title": [title.value for title in app.title],
        "wrong": [error.value for error in (*app.error, *app.exception)],
        "words": [text.value for text in app.markdown],
    }
    print("FOUND", json.dumps(found))
"""


@cache
def shown(asked: str) -> list[dict[str, Any]]:
    """Returns what pages show without torch. `asked`: pairs of page and address, as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, asked],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "ROBUSTVIZ_RUNS": os.devnull + "-none"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [json.loads(line.removeprefix("FOUND ")) for line in lines]


def pages(**address: str) -> dict[str, dict[str, Any]]:
    asked = [(page, address) for page in SCREENS]
    return dict(zip(SCREENS, shown(json.dumps(asked)), strict=True))


@pytest.mark.parametrize("page", SCREENS)
@pytest.mark.parametrize("data", ["shapes", "digits"])
def test_a_first_screen_needs_no_torch(page: str, data: str) -> None:
    found = pages(**{} if data == "shapes" else {"data": data})[page]
    (screen,) = found["screens"] or [None]
    assert screen is not None, found
    assert screen["answer"] and screen["picture"] and screen["alt"] and screen["sure"]


@pytest.mark.parametrize("page", ["attack", "attention", "soft-labels", "contributions"])
def test_nor_does_it_for_another_story_image(page: str) -> None:
    other = str(pack.images("shapes").index[-1])
    found = pages(img=other)[page]
    assert len(found["screens"]) == 1, found
    assert found["screens"] != pages()[page]["screens"]


@pytest.mark.parametrize("page", ["", "glossary"])
def test_the_first_page_and_the_words_need_none_at_all(page: str) -> None:
    (found,) = shown(json.dumps([(page, {})]))
    assert found["title"] and not found["wrong"]


# The shipped pack itself.


def pairs() -> list[tuple[str, list[folder.Run]]]:
    return [
        (data, [folder.open_model(run_id) for run_id in networks.defaults(networks.on(data))])
        for data in maker.PAIRS
    ]


def test_the_pack_has_what_first_screens_ask_of_these_weights() -> None:
    for data, runs in pairs():
        index = pack.images(data).index.tolist()
        for run in runs:
            lacking = [spec for spec in maker.specs(index, run.eps) if pack.kept(run, spec) is None]
            # The digits have no object masks, so `overlap` cannot be computed.
            allowed = {"overlap"} if data == "digits" else set()
            assert {spec.key for spec in lacking} <= allowed, "run `make story`"


def test_the_story_images_are_what_they_are_said_to_be() -> None:
    for data, (a, b) in pairs():
        story = pack.images(data)
        (clean, held), (clean_b, held_b) = networks.right(a.id), networks.right(b.id)
        one, *_ = index = story.index.tolist()
        assert one == networks.default_image(a.id, b.id)
        assert len(set(index)) == len(index) == 12
        told = clean & ~held & clean_b & held_b
        assert told[index[:8]].all() and not told[:one].any()
        assert not (held | held_b)[index[8:10]].any() and (held & held_b)[index[10:]].all()
        assert len(set(story.y[:8].tolist())) == 8
        split = maker.images_of(a)
        for at, number in enumerate(index):
            whole = split.take(maker.torch.tensor([number]))
            assert int(whole.y[0]) == story.y[at]
            assert abs(whole.x[0].numpy() * 255 - story.x[at]).max() < 0.51


def test_it_is_small() -> None:
    assert sum(file.stat().st_size for file in pack.FOLDER.iterdir()) <= 6e6
