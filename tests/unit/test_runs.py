"""Tests run folders: no file is ever half-written, nothing of another run is overwritten, and every
kind of damage gives one sentence.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from robustviz import cli
from robustviz.runs import files as files_module, folder as runs
from robustviz.runs.folder import Run, write_file
from robustviz.training.config import TrainConfig
from robustviz.training.evaluation import Evaluation
from robustviz.training.loop import Training
from robustviz.types import UserError
from robustviz.views.attack.result import AccuracyCurve, Trajectory


@pytest.fixture
def made(runs_home: Path, tiny: TrainConfig) -> Run:
    return runs.create(tiny)


@pytest.fixture
def trained(made: Run) -> Run:
    """Returns a run with weights and two finished epochs, written by hand."""
    made.save_weights("net.safetensors", Training(made.config).net.state_dict())
    write_file(
        made.path / "config.json",
        runs.to_bytes(made.info | {"images": {"classes": 10, "channels": 1, "size": 8}}),
    )
    epoch = {"clean_acc": 0.5, "robust_acc": 0.25, "n_val": 4, "seconds": 1.0}
    lines = [
        epoch | {"epoch": 1, "losses": {"ce": 2.5}},
        epoch | {"epoch": 2, "losses": {"ce": 2.0, "kl": 0.5}},
    ]
    write_file(made.path / "metrics.jsonl", "".join(json.dumps(e) + "\n" for e in lines).encode())
    return runs.open_run(made.id)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# Writing.


def test_a_write_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "new" / "a.json"
    write_file(target, b"one, and long")
    write_file(target, b"two")
    assert files(tmp_path) == {"new/a.json": b"two"}


@pytest.mark.parametrize("where", ["open", "rename"])
@pytest.mark.parametrize(
    ("number", "word"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EACCES, "could not be written"),
        (errno.EROFS, "could not be written"),
    ],
)
def test_a_write_that_fails_keeps_the_old_file_and_no_litter(
    where: str, number: int, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(tmp_path / "a.json", b"old")

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files_module, where, fail, raising=False)
    with pytest.raises(UserError, match=word) as caught:
        write_file(tmp_path / "a.json", b"new")
    assert "\n" not in str(caught.value) and files(tmp_path) == {"a.json": b"old"}


def test_a_folder_that_is_a_file_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(UserError, match="could not be written"):
        write_file(tmp_path / "a" / "b.json", b"new")


def test_a_content_is_on_the_disk_before_its_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    whole_sync, whole_rename = os.fsync, files_module.rename
    monkeypatch.setattr(os, "fsync", lambda handle: order.append("sync") or whole_sync(handle))
    monkeypatch.setattr(
        files_module,
        "rename",
        lambda source, target: order.append("rename") or whole_rename(source, target),
    )  # type: ignore[func-returns-value]
    write_file(tmp_path / "a", b"x")
    assert order == ["sync", "rename"]


def test_two_threads_can_write_one_file_at_once(tmp_path: Path) -> None:
    """Two sessions of the dashboard are two threads of one process."""
    contents, trouble = [bytes([65 + number]) * 20_000 for number in range(4)], []

    def write(content: bytes) -> None:
        try:
            for _ in range(40):
                write_file(tmp_path / "status.json", content)
        except Exception as error:
            trouble.append(error)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        not trouble
        and list(files(tmp_path)) == ["status.json"]
        and files(tmp_path)["status.json"] in contents
    )


def test_a_reader_on_windows_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def replace(source: Path, target: Path) -> None:
        tries.append(1)
        if len(tries) < 4:
            raise PermissionError(errno.EACCES, "being read")

    monkeypatch.setattr(files_module.os, "replace", replace)
    monkeypatch.setattr(files_module.time, "sleep", lambda seconds: None)
    with pytest.raises(PermissionError):
        files_module.rename(tmp_path / "a", tmp_path / "b")
    assert len(tries) == 1  # On other systems the error is final.
    tries.clear()
    monkeypatch.setattr(files_module.os, "name", "nt")
    files_module.rename(tmp_path / "a", tmp_path / "b")
    assert len(tries) == 4


# Creating and finding.


def test_a_run_is_created_queued_and_opened_by_id_and_by_path(made: Run, tiny: TrainConfig) -> None:
    assert made.path == runs.home() / tiny.run_id and made.status()["state"] == "queued"
    for name in (made.id, str(made.path), made.path):
        assert runs.open_run(name).config == tiny
    assert [run.id for run in runs.all_runs() if not run.shipped] == [made.id]
    assert made.info["versions"]["torch"] == torch.__version__


def test_the_same_settings_reopen_the_run_and_leave_its_bytes_alone(
    trained: Run, tiny: TrainConfig
) -> None:
    trained.set_status(state="done")
    before = files(trained.path)
    again = runs.create(dataclasses.replace(tiny, threads=7))
    assert again.path == trained.path and files(trained.path) == before


def test_other_settings_under_the_same_name_are_refused(runs_home: Path, tiny: TrainConfig) -> None:
    run = runs.create(tiny, name="mine")
    before = files(run.path)
    with pytest.raises(UserError, match="exists with other settings"):
        runs.create(dataclasses.replace(tiny, seed=1), name="mine")
    assert files(run.path) == before and runs.create(tiny, name="mine").path == run.path


def test_a_folder_of_somebody_else_is_refused_and_left_alone(
    runs_home: Path, tiny: TrainConfig, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("x")
    with pytest.raises(UserError, match="not a run folder"):
        runs.create(tiny, name="thesis", folder=tmp_path)
    assert files(tmp_path / "thesis") == {"chapter.txt": b"x"}
    (tmp_path / "plan").write_text("a file")
    with pytest.raises(UserError):
        runs.create(tiny, name="plan", folder=tmp_path)
    assert (tmp_path / "plan").read_text() == "a file"


def test_an_empty_folder_is_taken_and_so_is_one_where_only_a_torn_write_lies(
    runs_home: Path, tiny: TrainConfig
) -> None:
    folder = runs.home() / tiny.run_id
    folder.mkdir(parents=True)
    (folder / ".config.json.123.tmp").write_bytes(b'{"da')
    assert runs.create(tiny).status()["state"] == "queued"


@pytest.mark.parametrize("name", ["Upper", "a b", "ä", "a/b", "..", "a" * 65, "con.txt"])
def test_a_name_that_is_no_plain_id_is_refused(
    name: str, runs_home: Path, tiny: TrainConfig
) -> None:
    with pytest.raises(UserError, match="no run id"):
        runs.create(tiny, name=name)
    assert not runs.home().exists()


def test_every_name_in_a_run_folder_is_plain_and_short(trained: Run) -> None:
    trained.keep("adversarial-0123456789ab", AccuracyCurve(np.zeros(1), np.zeros(1, dtype=int), 1))
    trained.save_state({"a": torch.zeros(1)}, {})
    trained.save_weights("snapshots/epoch-0001.safetensors", {"a": torch.zeros(1)})
    trained.add_evaluation(evaluation())
    for path in files(trained.path):
        assert re.fullmatch(r"[A-Za-z0-9._/-]{1,120}", path), path


def test_an_unknown_run_is_answered_with_the_nearest(made: Run) -> None:
    with pytest.raises(UserError, match=f"Did you mean {made.id}"):
        runs.open_run(made.id[:-1])


def test_a_name_from_an_address_opens_no_folder_outside_the_runs(
    made: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "copy").symlink_to(made.path)
    monkeypatch.chdir(tmp_path)
    for name in ("docs", "copy"):
        with pytest.raises(UserError, match=f"no run called '{name}'") as caught:
            runs.open_model(name)
        assert str(tmp_path) not in str(caught.value)
    assert runs.open_run("copy").config == made.config


def test_a_missing_folder_is_one_clear_sentence(runs_home: Path, tmp_path: Path) -> None:
    for name in ("gone", str(tmp_path / "gone"), str(tmp_path)):
        with pytest.raises(UserError) as caught:
            runs.open_run(name)
        assert "\n" not in str(caught.value)


def test_runs_are_listed_oldest_first_without_the_damaged_ones(
    runs_home: Path, tiny: TrainConfig
) -> None:
    every = [runs.create(tiny, name=name) for name in ("c", "a", "b")]
    for number, run in enumerate(every):
        run.set_status(queued=1000.0 + 9 * number)
    write_file(every[1].path / "config.json", b"{")
    (runs.home() / "empty").mkdir()
    assert [run.id for run in runs.all_runs() if not run.shipped] == ["c", "b"]
    assert {run.id for run in runs.all_runs(damaged=True) if not run.shipped} == {
        "a",
        "b",
        "c",
        "empty",
    }


# Reading.


def test_records_drop_a_half_written_last_line(trained: Run) -> None:
    whole = (trained.path / "metrics.jsonl").read_bytes()
    for torn in (b'{"epoch": 3, "los', b"{", b""):
        (trained.path / "metrics.jsonl").write_bytes(whole + torn)
        assert [record["epoch"] for record in trained.records()] == [1, 2]
    (trained.path / "metrics.jsonl").unlink()
    assert trained.records() == [] and trained.metrics().empty


def test_metrics_are_a_table_with_a_column_a_term(trained: Run) -> None:
    table = trained.metrics()
    assert table["epoch"].tolist() == [1, 2] and table["loss_ce"].tolist() == [2.5, 2.0]
    assert np.isnan(table["loss_kl"][0]) and table["loss_kl"][1] == 0.5


def test_the_net_comes_back_with_its_weights_in_eval_mode_and_disturbs_nothing(
    trained: Run,
) -> None:
    everywhere = torch.get_rng_state()
    net = trained.net()
    expected = Training(trained.config).net.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in net.state_dict().items())
    assert not net.training and torch.equal(torch.get_rng_state(), everywhere)


def test_a_snapshot_in_half_precision_is_read_as_float32(trained: Run) -> None:
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in trained.net().state_dict().items()
    }
    trained.save_weights("snapshots/epoch-0002.safetensors", half)
    assert trained.net(epoch=2).head.weight.dtype == torch.float32
    with pytest.raises(UserError, match="no snapshot of that epoch"):
        trained.net(epoch=3)


def damages() -> Iterator[object]:
    for name, action in {
        "config": lambda run: run.config,
        "weights": lambda run: run.net(),
        "state": lambda run: run.load_state(),
        "evaluations": lambda run: run.evaluations(),
    }.items():
        for content in (b"", b"{", b"[1]", b"\xff\xfe\x00", b"null"):
            yield pytest.param(name, action, content, id=f"{name}-{content!r}")


@pytest.mark.parametrize(("name", "action", "content"), list(damages()))
def test_a_damaged_file_is_one_clear_sentence(
    name: str, action, content: bytes, trained: Run
) -> None:
    trained.save_state({"a": torch.zeros(3)}, {"epoch": 1})
    path = {
        "config": "config.json",
        "weights": "net.safetensors",
        "state": "state/state.safetensors",
        "evaluations": "eval.json",
    }[name]
    (trained.path / path).write_bytes(content)
    with pytest.raises(UserError) as caught:
        action(Run(trained.path))
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("entry", [3, {}, {"key": "a"}, {"doctor": 1}])
def test_a_damaged_evaluation_is_one_clear_sentence(entry: object, trained: Run) -> None:
    write_file(trained.path / "eval.json", runs.to_bytes({"evaluations": [entry]}))
    with pytest.raises(UserError, match=r"eval\.json"):
        trained.evaluations()


def test_weights_cut_short_anywhere_or_of_another_network_are_one_clear_sentence(
    trained: Run, tiny: TrainConfig
) -> None:
    whole = (trained.path / "net.safetensors").read_bytes()
    for share in (0.001, 0.3, 0.999):
        (trained.path / "net.safetensors").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(UserError, match="damaged or of another network"):
            trained.net()
    trained.save_weights(
        "net.safetensors", Training(dataclasses.replace(tiny, net="small_cnn")).net.state_dict()
    )
    with pytest.raises(UserError, match="damaged or of another network"):
        trained.net()


@pytest.mark.parametrize("content", [b"", b"{", b"3", None])
def test_a_damaged_status_reads_as_failed(content: bytes | None, made: Run) -> None:
    if content is None:
        (made.path / "status.json").unlink()
    else:
        (made.path / "status.json").write_bytes(content)
    assert made.status()["state"] == "failed" and "status.json" in made.status()["error"]
    made.set_status(state="running")
    assert made.status()["state"] == "running"


def test_a_wish_is_left_read_and_taken_back(made: Run) -> None:
    assert made.wanted() == ""
    made.ask("pause")
    assert made.wanted() == "pause"
    made.ask("")
    made.ask("")
    assert made.wanted() == ""
    (made.path / "control.json").write_bytes(b"{")
    assert made.wanted() == ""


def test_a_config_from_another_version_is_one_clear_sentence(made: Run) -> None:
    write_file(made.path / "config.json", runs.to_bytes(made.info | {"momentun": 0.9}))
    with pytest.raises(UserError, match="Did you mean momentum"):
        _ = Run(made.path).config


# Evaluations, cached probes and state.


def evaluation(k: int = 5) -> Evaluation:
    return Evaluation({"key": "pgd", "eps": 0.15}, 0.15, 10, 9, k, 0, "test", 1.0, "cpu")


def test_an_evaluation_replaces_the_one_with_the_same_protocol(trained: Run) -> None:
    one = trained.add_evaluation(evaluation(5))
    other = trained.add_evaluation(
        dataclasses.replace(evaluation(3), attack={"key": "pgd", "eps": 0.2})
    )
    again = trained.add_evaluation(evaluation(6))
    assert one.key == again.key != other.key
    assert trained.evaluations() == [other, again]
    assert (
        json.loads((trained.path / "eval.json").read_text())["evaluations"][1]["robust_acc"] == 0.6
    )


def test_an_evaluation_on_other_images_is_kept_beside_the_first(trained: Run) -> None:
    one, moved = (
        trained.add_evaluation(dataclasses.replace(evaluation(k), images=images))
        for k, images in ((5, "a" * 16), (3, "b" * 16))
    )
    again = trained.add_evaluation(dataclasses.replace(evaluation(4), images="b" * 16))
    assert one.key != moved.key == again.key
    assert trained.evaluations() == [one, again]


def test_a_probe_is_kept_and_a_damaged_one_is_made_again(made: Run) -> None:
    curve = AccuracyCurve(np.array([0.0, 0.1]), np.array([9, 3]), 10)
    assert made.cached(AccuracyCurve, "a") is None
    made.keep("a", curve)
    assert made.cached(AccuracyCurve, "a").k.tolist() == [9, 3]  # type: ignore[union-attr]
    assert made.cached(Trajectory, "a") is None  # The cached file has another type.
    (made.path / "probes" / "a.npz").write_bytes((made.path / "probes" / "a.npz").read_bytes()[:50])
    assert made.cached(AccuracyCurve, "a") is None


def test_a_state_comes_back_with_its_tensors_and_its_position(made: Run) -> None:
    assert made.load_state() is None
    tensors, plain = (
        {"a/b": torch.arange(3), "c": torch.rand(2, 2).double()},
        {"epoch": 3, "best_score": None, "sums": ["ä"]},
    )
    made.save_state(tensors, plain)
    found = made.load_state()
    assert found is not None and found[1] == plain
    assert all(
        torch.equal(found[0][name], value) and found[0][name].dtype == value.dtype
        for name, value in tensors.items()
    )


# Locking and removing.


@pytest.mark.long
def test_a_run_has_one_writer_at_a_time(made: Run) -> None:
    with made.locked():
        with pytest.raises(UserError, match="written by another process"), Run(made.path).locked():
            pass
        with pytest.raises(UserError, match="written by another process"):
            runs.remove(Run(made.path))
    with made.locked():
        pass
    assert made.path.is_dir()


def test_a_run_is_removed_only_by_remove_and_only_if_it_is_the_users(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo").mkdir()
    monkeypatch.setattr(runs, "zoo", lambda: tmp_path / "zoo")
    runs.create(trained.config, name="shipped", folder=tmp_path / "zoo")
    with pytest.raises(UserError, match="read-only"):
        runs.remove(runs.open_run("shipped"))
    assert (tmp_path / "zoo" / "shipped" / "config.json").exists()
    runs.remove(trained)
    assert not trained.path.exists() and runs.home().exists()


@pytest.mark.long
def test_what_was_measured_on_other_weights_does_not_count(
    tiny: TrainConfig, runs_home: Path
) -> None:
    from robustviz.runs import worker
    from robustviz.views.attack.result import SmallestEps

    run = runs.create(tiny)
    worker.execute(run)
    run.keep("some", SmallestEps(np.array([0.1]), np.array([0]), 0.5, 0.01, meta={}))
    assert run.cached(SmallestEps, "some") is not None and run.evaluation() is not None
    weights = {name: value + 1 for name, value in run.net().state_dict().items()}
    run.save_weights("net.safetensors", weights)
    assert run.cached(SmallestEps, "some") is None and run.evaluation() is None


def test_a_view_shows_the_shipped_run_when_somebody_trains_the_same(runs_home: Path) -> None:
    shipped = next(run for run in runs.all_runs() if run.shipped)
    own = runs.create(shipped.config)
    assert own.id == shipped.id and not own.shipped
    assert runs.open_run(shipped.id).path == own.path
    assert runs.open_model(shipped.id).path == shipped.path


@pytest.mark.timeout(30)
def test_weights_that_are_no_numbers_or_a_list_without_an_end_are_refused(trained: Run) -> None:
    weights = Training(trained.config).net.state_dict()
    first = next(name for name, value in weights.items() if value.is_floating_point())
    for strange in (float("nan"), float("inf")):
        trained.save_weights(
            "net.safetensors", weights | {first: torch.full_like(weights[first], strange)}
        )
        with pytest.raises(UserError, match="damaged or of another network"):
            trained.net()
    header = b'{"' + b"a" * 80_000_000 + b'":1}'
    (trained.path / "net.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match="damaged or of another network"):
        trained.net()


def test_an_interrupted_training_names_the_command_that_goes_on(
    made: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*given: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustviz.runs.worker.execute", interrupted)
    assert cli.main(["resume", made.id]) == 1
    assert f"python -m robustviz resume {made.id}" in capsys.readouterr().err


def test_a_run_that_is_trained_already_says_if_its_plug_in_is_another_now(
    trained: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained.set_status(state="done")
    monkeypatch.setattr("robustviz.runs.worker.execute", lambda *given: "paused")
    for said, words in (("", "these are its results.\n"), ("mine.py has changed.", "--name NAME")):
        monkeypatch.setattr("robustviz.plugins.changed", lambda asked, said=said: said)
        assert cli.main(["resume", trained.id]) == 0
        assert words in capsys.readouterr().err
