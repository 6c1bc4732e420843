"""Tests the shipped catalogue of names, which needs no torch, against the registry."""

from __future__ import annotations

import json
from pathlib import Path

from robustviz import registry
from robustviz.runs import catalogue, folder, naming
from robustviz.ui import networks
from robustviz.views.measure import images_of
from robustviz.views.start.pack import PAIRS
from tests.unit.test_imports import run

AGAIN = "run `make story`: checkpoints/story/catalogue.json is older than the registry"


def test_the_catalogue_says_what_the_registry_says() -> None:
    shipped = json.loads(catalogue.FILE.read_text(encoding="utf-8"))
    counts = {
        each.data_key: len(images_of(each))
        for each in folder.all_runs()
        if each.shipped and each.data_key in PAIRS
    }
    assert shipped == json.loads(json.dumps(catalogue.found(counts))), AGAIN
    for kind in catalogue.KINDS:
        assert list(shipped[kind]) == list(registry.every(kind)), AGAIN
        assert catalogue.keys(kind) == list(registry.keys(kind)), AGAIN


def test_names_are_the_same_with_and_without_it(monkeypatch) -> None:
    def told() -> list[object]:
        for each in (networks.label, networks._by_dials, naming.unusual):
            each.cache_clear()
        here = networks.on("shapes")
        return [
            *map(networks.option, here.values()),
            networks.defaults(here),
            naming.unusual.__name__,
        ]

    with_it = told()
    monkeypatch.setattr(catalogue, "FILE", catalogue.FILE.with_name("none.json"))
    assert told() == with_it


def test_what_is_not_shipped_is_asked_of_the_registry(monkeypatch) -> None:
    class Tomorrow(registry.get("method", "standard")):  # type: ignore[misc]
        label = "Tomorrow"

    monkeypatch.setitem(registry._table["method"], "tomorrow", Tomorrow)
    assert not catalogue.known("method", "never") and catalogue.known("method", "tomorrow")
    assert naming.method_label("tomorrow") == "Tomorrow"
    assert catalogue.keys("method", "tomorrow")[-1] == "tomorrow"


def test_networks_are_known_by_name_without_torch(runs_home: Path) -> None:
    code = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'torchvision'):
            raise ImportError(f'{name} was asked for')
sys.meta_path.insert(0, Without())
from robustviz.ui import networks
for data in ('shapes', 'digits'):
    here = networks.on(data)
    a, b = networks.defaults(here)
    print(networks.option(here[a]))
    print(networks.label(here[b]), networks.default_image(a, b) >= 0)
"""
    assert run(code).splitlines() == 2 * [
        "No adversarial training · Standard · small_resnet · seed 0",
        "PGD-AT · small_resnet · seed 0 True",
    ]
