"""Tests runs as zip files: what is exported can be imported unchanged, and nothing else can."""

from __future__ import annotations

import json
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from robustviz.runs import folder, travel
from robustviz.runs.folder import Run
from robustviz.training.config import TrainConfig
from robustviz.types import UserError


@pytest.fixture
def shipped() -> Run:
    return next(run for run in folder.all_runs() if run.shipped and run.data_key == "digits")


@pytest.fixture
def packed(runs_home: Path, shipped: Run, tmp_path: Path) -> Path:
    return travel.export(shipped, tmp_path / "F.zip")


def test_a_run_comes_in_as_it_went_out(packed: Path, shipped: Run) -> None:
    run = travel.import_zip(packed, name="again")
    assert run.path == folder.home() / "again" and run.config == shipped.config
    assert run.weights == shipped.weights and run.status()["state"] == "done"
    assert [one.key for one in run.evaluations()] == [one.key for one in shipped.evaluations()]
    assert [*folder.home().iterdir()] == [run.path]  # No other folder is left.
    with pytest.raises(UserError, match="A run named again exists"):
        travel.import_zip(packed, name="again")
    with pytest.raises(UserError, match="exists: choose another name"):
        travel.export(shipped, packed)


def test_a_run_that_waits_does_not_begin_by_itself(runs_home: Path, tmp_path: Path) -> None:
    run = folder.create(TrainConfig(data="digits"), name="waits")
    travel.export(run, tmp_path / "F.zip")
    again = travel.import_zip(tmp_path / "F.zip", name="here")
    assert again.status()["state"] == "interrupted" and again.status()["pid"] is None


def test_a_run_of_a_plug_in_that_is_not_here_says_so(runs_home: Path, tmp_path: Path) -> None:
    found = {"plugins": [{"source": "/nowhere/mine.py", "sha256": "0" * 64}]}
    run = folder.create(TrainConfig(data="digits"), name="coded", found=found)
    travel.export(run, tmp_path / "F.zip")
    said: list[object] = []
    travel.import_zip(tmp_path / "F.zip", name="here", say=said.append)
    assert "needs the plug-in /nowhere/mine.py" in str(said)


def rewritten(packed: Path, change: Callable[[str, bytes], tuple[str, bytes] | None]) -> Path:
    new = packed.with_name("other.zip")
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(new, "w") as out:
        for part in old.infolist():
            if changed := change(part.filename, old.read(part)):
                out.writestr(*changed)
    return new


@pytest.mark.parametrize(
    "name",
    ["../out.json", "/etc/out.json", "RUN/../../out.json", "RUN/config.json/../x.json", "RUN/x.py",
     "RUN/probes/../../x.npz", "other/config.json", "RUN/state/evil.pkl", "RUN\\..\\x", "x"],
)  # fmt: skip
def test_files_of_any_other_name_are_refused(packed: Path, shipped: Run, name: str) -> None:
    with zipfile.ZipFile(packed, "a") as out:
        out.writestr(name.replace("RUN", shipped.id), b"{}")
    with pytest.raises(UserError, match="does not belong to a run"):
        travel.import_zip(packed, name="here")
    assert not folder.home().exists() or not [*folder.home().iterdir()]


def test_links_bombs_and_crowds_are_refused(
    packed: Path, shipped: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = rewritten(packed, lambda n, c: (n, b" " * 11_000_000 if n.endswith("config.json") else c))
    with pytest.raises(UserError, match=r"larger than stated or than allowed .*\(10 MB\)"):
        travel.import_zip(big, name="here")
    with zipfile.ZipFile(packed, "a") as out:
        link = zipfile.ZipInfo(f"{shipped.id}/probes/a.npz")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        out.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match="does not belong to a run"):
        travel.import_zip(packed, name="here")
    monkeypatch.setattr(travel, "MANY", 2)
    with pytest.raises(UserError, match="a run has at most 2"):
        travel.import_zip(packed, name="here")
    assert not folder.home().exists() or not [*folder.home().iterdir()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"{}"),
        ("config.json", None),
        ("net.safetensors", b"\x80\x04pickle"),
        ("eval.json", b'{"evaluations": 5}'),
    ],
)
def test_a_damaged_run_is_one_sentence_and_leaves_nothing(
    packed: Path, name: str, content: bytes | None
) -> None:
    def change(held: str, was: bytes) -> tuple[str, bytes] | None:
        if not held.endswith(f"/{name}"):
            return held, was
        return None if content is None else (held, content)

    with pytest.raises(UserError, match=r"holds (a damaged|no) run") as refused:
        travel.import_zip(rewritten(packed, change), name="here")
    assert ".import-" not in str(refused.value) and "\n" not in str(refused.value)
    assert not [*folder.home().iterdir()] if folder.home().exists() else True


def test_what_is_no_zip_is_one_sentence(runs_home: Path, tmp_path: Path) -> None:
    for content in (b"", b"PK\x03\x04 nothing", json.dumps({}).encode()):
        (tmp_path / "F.zip").write_bytes(content)
        with pytest.raises(UserError, match=r"F.zip is damaged, or no zip file\."):
            travel.import_zip(tmp_path / "F.zip")
    with pytest.raises(UserError, match="cannot be read"):
        travel.import_zip(tmp_path / "none.zip")
