"""Tests that text by others stays text: it never becomes a picture, link, markup or formula,
wherever it appears.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from robustviz import registry
from robustviz.data.folder import Folder
from robustviz.runs.folder import Run
from robustviz.types import UserError, harmless

HOSTILE = (
    "![x](http://evil.example/x.png)",
    "[click](http://evil.example)",
    "<img src=http://evil.example/x.png>",
    "<a href='http://evil.example'>a</a>",
    "http://evil.example/x",
    "[x]: http://evil.example",
    "a\n\n![x][y]\n\n[y]: http://evil.example",
    ":red[a] $\\frac{1}{2}$ `code` | cell |",
    "half of a character \udcff",
    "right to left \u202e and nothing \x00\x1b[31m",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_is_left_that_anybody_would_act_on(text):
    made = harmless(text)
    assert not set("[]<>`$|\\\n\x00\x1b\u202e") & set(made) and "://" not in made
    made.encode()
    assert harmless(made) == made  # Applying it again changes nothing.


def test_ordinary_names_stay_what_they_are():
    for name in ("cat", "red_fox", "T-shirt/top", "naïve café", "狐", "a b (c) 50% & more!"):
        assert harmless(name) == name


@pytest.mark.skipif(os.name == "nt", reason="these are no names of files there")
def test_class_folders_with_such_names_are_shown_harmlessly(tmp_path: Path):
    names = [name.replace("/", "∕") for name in HOSTILE[:3]] + ["cat"]
    for number, name in enumerate(names):
        (tmp_path / name).mkdir()
        for i in range(6):
            Image.new("L", (9, 9), 20 * number + i).save(tmp_path / name / f"{i}.png")
    split = Folder(path=str(tmp_path), size=8).load("train")
    assert set(split.classes) == set(map(harmless, names))
    for text in (*split.classes, *split.names, split.card):
        assert harmless(text) == text
    for twin in ("a[b", "a［b"):
        (tmp_path / twin).mkdir()
        Image.new("L", (9, 9), 200).save(tmp_path / twin / "0.png")
    with pytest.raises(UserError, match="Two classes would both be shown as a［b"):
        Folder(path=str(tmp_path), size=8).load("train")


def test_what_a_run_folder_says_is_harmless_when_it_is_read(tmp_path: Path):
    config = {
        "data": {"key": "digits"},
        "method": {"key": "standard"},
        "net": "small_resnet",
        "eps": 0.1,
        "seed": 0,
        "device": "cpu",
        "images": {"classes": 2, "channels": 1, "size": 8, "names": [HOSTILE[0], HOSTILE[2]]},
    }
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    said = {"state": "failed", "error": HOSTILE[0], "note": HOSTILE[2]}
    (tmp_path / "status.json").write_text(json.dumps(said), encoding="utf-8")
    run = Run(tmp_path)
    found = [
        *run.classes,
        *run.info["images"]["names"],
        run.status()["error"],
        run.status()["note"],
    ]
    assert all("evil.example" in text and harmless(text) == text for text in found)


def test_a_name_from_an_address_is_harmless_in_the_sentence_about_it():
    said = registry.unknown("run", HOSTILE[0], ["a-run"])
    assert "![" not in said and "](" not in said and "evil.example" in said
