"""Tests the BibTeX entries: everything that can be chosen has one, every entry can be parsed, and a
run cites what it uses.
"""

from __future__ import annotations

import json
import re

import pytest

from robustviz import citations, cli, registry
from robustviz.runs import folder

TEXT = citations.FILE.read_text(encoding="utf-8")
OURS = ("method/standard", "data/shapes", "net/small_cnn")  # These have no paper by others.
ARXIV = re.compile(r"\d{4}\.\d{5}|\d{4}\.\d{4}")


def entries() -> list[tuple[str, str, dict[str, str]]]:
    """Returns each entry's kind, name and fields. Parsing is strict: one field per line, matching
    braces.
    """
    found = []
    for entry in TEXT.strip().split("\n\n"):
        first, *lines, last = entry.split("\n")
        head = re.fullmatch(r"@(\w+)\{([a-z]+\d{4}[a-z]+),", first)
        assert head and last == "}", first
        fields = {}
        for line in lines:
            said = re.fullmatch(r"  (\w+) = \{(.*)\},", line)
            assert said, line
            depth = 0
            for sign in said[2]:
                depth += {"{": 1, "}": -1}.get(sign, 0)
                assert depth >= 0, line
            assert depth == 0, line
            assert said[1] == "keywords" or not re.search(r"(?<!\\)[&%#_]", said[2]), line
            fields[said[1]] = said[2]
        found.append((head[1], head[2], fields))
    return found


def test_every_entry_is_whole_and_says_what_it_is_cited_for():
    needs = {"inproceedings": "booktitle", "article": "journal", "techreport": "institution"}
    names = [name for _, name, _ in entries()]
    assert len(set(names)) == len(names) > 30 and TEXT.isascii()
    for kind, name, fields in entries():
        assert {"title", "author", "year", "keywords"} <= fields.keys(), name
        assert needs.get(kind, "howpublished") in fields, name
        assert re.search(r"\d{4}", name)[0] == fields["year"]
        first = re.sub(r"\W", "", fields["author"].split(",")[0].lower())
        assert name.startswith(first), name
        if "eprint" in fields:
            assert ARXIV.fullmatch(fields["eprint"]) and fields["archiveprefix"] == "arXiv"
            assert int(fields["eprint"][:2]) + 2000 <= int(fields["year"])
        for thing in fields["keywords"].split(", "):
            group, _, key = thing.partition("/")
            assert thing == "setting/awp" or key in registry.keys(group), thing


@pytest.mark.parametrize("kind", ["method", "attack", "data", "net"])
def test_everything_that_can_be_chosen_has_an_entry_or_is_ours(kind):
    things = [f"{kind}/{key}" for key in registry.keys(kind) if key not in ("blink", "wrapped")]
    assert set(citations.missing(things)) == {one for one in OURS if one.startswith(f"{kind}/")}


def test_the_papers_are_those_that_the_methods_name():
    """The paper that a page names for a method and its BibTeX entry have the same author and
    year.
    """
    for key in registry.keys("method"):
        paper, text = registry.get("method", key).paper, citations.bibtex([f"method/{key}"])
        if text:
            assert re.split(r"[ ,:]", paper)[0] in text
            assert any(year in text for year in re.findall(r"\b20\d\d\b", paper)), key


def test_a_run_gets_what_it_uses_each_once(runs_home, capsys):
    run = next(run for run in folder.all_runs() if run.method_key == "trades")
    used = citations.used(run)
    assert used[:2] == ("method/trades", "attack/pgd") and f"data/{run.data_key}" in used
    assert cli.main(["cite", run.id, run.id, "method/trades", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["used"] == list(used) and "keywords" not in told["bibtex"]
    assert told["bibtex"].count("zhang2019theoretically") == 1
    assert cli.main(["cite", "attack/apgd"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("@inproceedings{croce2020reliable,") and out.rstrip().endswith("}")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nix", "There is no run called 'nix'"),
        ("method/nix", "There is no method called 'nix'"),
        ("nix/pgd", "Or name a thing, as method/trades"),
    ],
)
def test_what_is_not_known_is_a_sentence(name, sentence, runs_home, capsys):
    assert cli.main(["cite", name]) in (1, 2)
    assert sentence in capsys.readouterr().err


def test_a_thing_of_a_plug_in_brings_its_own_entry(monkeypatch):
    class Mine:
        bibtex = "\n@misc{me2026mine,\n  title = {Mine},\n}\n"

    monkeypatch.setitem(registry._table["attack"], "mine", Mine)
    assert citations.bibtex(["attack/mine"]) == Mine.bibtex.strip()
    assert citations.missing(["attack/mine", "attack/gone"]) == ["attack/gone"]
