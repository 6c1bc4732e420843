"""Tests hostile text in a run: in the names of classes, pictures and the run, in errors, in
evaluations and in addresses. On no page may such text make the browser send a request to another
host.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Request

from robustviz import data, nets
from robustviz.attacks import PGD
from robustviz.runs import folder
from robustviz.training.config import TrainConfig
from robustviz.training.evaluate import evaluate

PICTURE = "![x](http://evil.example/x.png)"
NAMES = (
    PICTURE.replace("/", "∕"),  # File names cannot contain the ordinary slash.
    "<img src=x onerror=fetch('http:evil.example')>",
    "a\n\n[y]: http:evil.example",
)
ADDRESS = {
    "data": PICTURE,
    "img": PICTURE,
    "cam": "<img src=//evil.example/x>",
    "map": PICTURE,
    "attack": "[x](http://evil.example)",
    "teacher": PICTURE,
    "present": PICTURE,
}


def pictures(place: Path) -> Path:
    """Creates 24 pictures per class in folders with hostile names, under hostile names."""
    rng = np.random.default_rng(0)
    for at, name in enumerate(NAMES):
        (place / name).mkdir(parents=True)
        for number in range(24):
            colour = rng.integers(60 * at, 60 * at + 60, 3)
            pixels = (colour + rng.integers(0, 30, (12, 12, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(place / name / f"{NAMES[number % 3]}{number}.png")
    return place


def hostile_run(home: Path, place: Path, seed: int) -> folder.Run:
    """Creates a run, as if trained on these pictures but with random weights, with hostile text in
    every field of its files that holds text.
    """
    source = data.source(f"folder:{place}")
    train = data.load(source, "train")
    config = TrainConfig(
        data=source, method="pgd_at", net="small_cnn", eps=0.1, seed=seed, epochs=2, device="cpu"
    )  # type: ignore[arg-type]
    run = folder.create(config, folder=home, name=f"hostile-{seed}")
    torch.manual_seed(seed)
    shape = (len(train.classes), *train.images.shape[1:3])
    run.save_weights("net.safetensors", nets.build("small_cnn", *shape).state_dict())
    path = run.path / "config.json"
    said = json.loads(path.read_text(encoding="utf-8"))
    said["images"] = {"classes": shape[0], "channels": shape[1], "size": shape[2], "names": NAMES}
    said |= {"label": f"{PICTURE} {seed}", "versions": {"torch": PICTURE}}
    path.write_text(json.dumps(said), encoding="utf-8")
    run = folder.open_run(run.path)
    evaluate(run, PGD(steps=2), n=12)
    path = run.path / "eval.json"
    told = json.loads(path.read_text(encoding="utf-8"))
    for each in told["evaluations"]:
        each["device"] = each["split"] = PICTURE
        each["doctor"][0] |= {"name": PICTURE, "text": PICTURE, "warning": True}
        each["attack"] |= {PICTURE: PICTURE}
    other = json.loads(json.dumps(told["evaluations"][0])) | {"key": PICTURE}
    other["attack"] |= {"key": PICTURE}
    told["evaluations"].append(other)
    path.write_text(json.dumps(told), encoding="utf-8")
    run.set_status(state="failed", error=PICTURE, note=PICTURE, phase=PICTURE)
    line = {"epoch": 1, "losses": {PICTURE: 1.0}, "clean_acc": 0.5, "robust_acc": 0.1, "n_val": 9}
    (run.path / "metrics.jsonl").write_text(json.dumps(line | {"seconds": 1.0}) + "\n")
    return run


def damaged(home: Path, like: folder.Run) -> list[str]:
    """Creates a run that cannot be read, and one that needs a missing plug-in."""
    for name in ("broken-run", "lacking-run"):
        (home / name).mkdir()
    said = json.loads((like.path / "config.json").read_text(encoding="utf-8"))
    (home / "broken-run" / "config.json").write_text(
        json.dumps(said | {"seed": PICTURE}), encoding="utf-8"
    )
    said["plugins"] = [{"source": PICTURE, "sha256": PICTURE}]
    said["method"]["key"] = PICTURE
    (home / "lacking-run" / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return ["broken-run", "lacking-run"]


def own_data(home: Path, place: Path) -> None:
    """Creates a user's data set whose file contains hostile text."""
    entry = home / ".data" / "pets"
    entry.mkdir(parents=True)
    asked = {"key": "folder", "path": str(place), "size": 12}
    said = {"source": asked, "asked": asked, "card": PICTURE, "name": PICTURE, "added": 1.0}
    (entry / "source.json").write_text(json.dumps(said), encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="these are no names of files there")
@pytest.mark.slow
def test_no_text_of_others_makes_a_browser_ask_anybody(
    page, fresh_server, settled, tmp_path, problems
):
    home = tmp_path / "runs"
    place = pictures(tmp_path / NAMES[0])
    runs = [hostile_run(home, place, seed) for seed in (0, 1)]
    bad = damaged(home, runs[0])
    own_data(home, place)
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    page.on("request", note)
    server = fresh_server(ROBUSTVIZ_RUNS=str(home), ROBUSTVIZ_FOLDERS=str(tmp_path))
    page.goto(server.url)
    settled(page)
    hrefs = page.locator("a[href]").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    pages = sorted({href.partition("?")[0].strip("/") for href in hrefs if "evil" not in href})
    assert {"attack", "train", "compare", "glossary"} <= {name.rpartition("/")[2] for name in pages}
    sides = f"a={runs[0].id}&b={runs[1].id}"
    hostile = "&".join(f"{name}={quote(value)}" for name, value in ADDRESS.items())
    seen: dict[str, str] = {}
    for name in pages:
        base = name if name.startswith("http") else f"{server.url}/{name}"
        for query in (sides, f"a={quote(PICTURE)}&job={quote(PICTURE)}&{hostile}"):
            page.goto(f"{base}?{query}")
            settled(page)
            seen[f"{name}?{query}"] = text = page.locator("body").inner_text()
            assert "Something unexpected" not in text, (name, query)
    for job in (runs[0].id, *bad):
        page.goto(f"{server.url}/train?job={job}")
        settled(page)
        seen[job] = page.locator("body").inner_text()
        assert "evil.example" in seen[job], job
    told = {name.partition("?")[0] for name, text in seen.items() if "evil.example" in text}
    assert len(told) > 6, f"the text was not even shown, but on {told}"
    assert len(asked) > 100
    assert not problems and not [url for url in asked if "evil" in url.partition("?")[0]]
