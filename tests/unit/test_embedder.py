"""Tests the separate process that computes UMAP: its maps equal those computed in this process, bit
for bit, no request blocks another, the process is restarted once, and it ends with its parent,
however the parent ends.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from conftest import eventually
from websockets.sync.client import connect

from robustviz import embedder, figures, measures, probes
from robustviz.probes import FeatureFilmSpec
from robustviz.runs import folder
from robustviz.types import UserError
from robustviz.ui import launch
from robustviz.views.features import embedding
from robustviz.views.features.probe import features_of
from robustviz.views.measure import images_of

# The real process with a layout function that needs no compilation.
QUICK = """
import os
from robustviz import embedder
def layout(x, rows, far, init=None, **settings):
    if settings["seed"] == 13: os._exit(13)
    if settings["seed"] == 7: raise ValueError("no such map")
    if settings["seed"] == 11: raise embedder.UserError("There is no such map: ask for another.")
    print("a library that talks")
    return x[:, :2] * settings["seed"] + settings["min_dist"] + (0 if init is None else init)
embedder.layout, embedder._warm_up = layout, lambda: {works}
embedder.serve()
"""


def question(seed: int = 2, n: int = 5, **more: object) -> dict[str, object]:
    return {
        "x": np.arange(4.0 * n).reshape(n, 4),
        "rows": np.zeros((n, 2), int),
        "far": np.zeros((n, 2)),
        "seed": seed,
        "min_dist": 0.5,
    } | more


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[embedder.Embedder]:
    monkeypatch.setattr(embedder, "COMMAND", [sys.executable, "-c", QUICK.format(works=True)])
    one = embedder.Embedder()
    yield one
    one.stop()


def ended(pid: int) -> bool:
    return eventually(lambda: not alive(pid))


def spent(pid: int | None) -> float:
    """Returns the seconds of CPU time that a process has used, which do not depend on how busy the
    machine is.
    """
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_arrays_go_in_and_a_map_comes_out(quick: embedder.Embedder) -> None:
    assert quick.ask(**question()) is None and quick.pid is None, (
        "it answers without having been started"
    )
    quick.start()
    x = question()["x"]
    found = quick.ask(**question(), init=None)
    assert (
        found is not None
        and np.array_equal(found, x[:, :2] * 2 + 0.5)
        and found.dtype == x.dtype
        and quick.ready
    )
    init = np.full((5, 2), 100, np.float32)
    assert np.array_equal(quick.ask(**question(), init=init), x[:, :2] * 2 + 100.5)
    large = quick.ask(**question(n=200_000))  # More bytes than a pipe holds.
    assert large is not None and large.shape == (200_000, 2)
    pid = quick.pid
    quick.start()
    assert quick.pid == pid, "a second process"
    quick.stop()
    assert ended(pid) and not quick.ready and quick.ask(**question()) is None


def test_it_takes_one_core(quick: embedder.Embedder) -> None:
    quick.start()
    assert quick.pid is not None
    environment = psutil.Process(quick.pid).environ()
    assert [environment[name] for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")] == ["1", "1"]


def test_many_may_ask_at_once_and_each_gets_its_own_answer(quick: embedder.Embedder) -> None:
    quick.start()
    found: dict[int, np.ndarray | None] = {}
    askers = [
        threading.Thread(target=lambda n=n: found.update({n: quick.ask(**question(n=n))}))
        for n in range(20, 40)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert {n: len(at) for n, at in found.items() if at is not None} == {
        n: n for n in range(20, 40)
    }


def test_what_it_cannot_answer_is_answered_here_and_it_goes_on(
    quick: embedder.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick.start()
    assert quick.ask(**question(seed=7)) is None
    pid = quick.pid
    assert quick.ask(**question()) is not None and quick.pid == pid
    monkeypatch.setattr(embedder, "APP", quick)
    monkeypatch.setattr(embedder, "layout", lambda **asked: asked["seed"])
    asked = question()
    arrays = [asked.pop(name) for name in ("x", "rows", "far")]
    assert (
        len(embedder.map_of(*arrays, None, **asked)) == 5
        and embedder.map_of(*arrays, None, **asked | {"seed": 7}) == 7
    )


def test_a_sentence_comes_back_as_it_was_said_and_it_goes_on(quick: embedder.Embedder) -> None:
    quick.start()
    assert quick.ask(**question()) is not None
    pid = quick.pid
    with pytest.raises(UserError, match=r"^There is no such map: ask for another\.$"):
        quick.ask(**question(seed=11))
    assert quick.ask(**question()) is not None and quick.pid == pid


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_what_umap_learn_says_of_points_it_cannot_lay_out_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import umap

    def fit(*_: object) -> None:
        raise TypeError("k >=\n N")

    monkeypatch.setattr(umap.UMAP, "fit_transform", fit)
    with pytest.raises(
        UserError, match=r"cannot lay out these 5 points \(k >= N\): use more images"
    ):
        embedder.layout(**question(), epochs=5)


def test_a_process_that_died_is_started_again_once(quick: embedder.Embedder) -> None:
    quick.start()
    assert quick.ask(**question()) is not None
    first = quick.pid
    psutil.Process(first).kill()
    assert quick.ask(**question()) is not None and quick.pid != first
    psutil.Process(quick.pid).kill()
    assert quick.ask(**question()) is None and quick.pid is None and not quick.ready


@pytest.mark.long
def test_it_ends_when_nobody_asks_and_starts_again_for_the_next_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedder, "COMMAND", [sys.executable, "-c", QUICK.format(works=True)])
    one = embedder.Embedder(idle=1.0)
    one.start()
    try:
        before: list[int | None] = []
        for _ in range(2):
            assert one.ask(**question()) is not None
            before.append(pid := one.pid)
            assert pid is not None and ended(pid) and eventually(lambda: one.pid is None)
            one.start()  # A page starts the process without asking for a map.
            assert one.pid is None and not one.ready
        assert before[0] != before[1]
        assert one.ask(**question(seed=13)) is None, "what it dies of is not asked for ever"
        assert eventually(lambda: one.pid is None)
    finally:
        one.stop()
    assert one.ask(**question()) is None


class Door:
    """A lock that counts the threads that wait for it."""

    def __init__(self) -> None:
        self.lock, self.waiting = threading.Lock(), 0

    def __enter__(self) -> None:
        self.waiting += 1
        self.lock.acquire()
        self.waiting -= 1

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def test_it_does_not_end_while_somebody_asks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked, go = tmp_path / "asked", tmp_path / "go"
    slow = QUICK.replace(
        "    return x",
        f"    print(os.getpid(), file=open({str(asked)!r}, 'a'), flush=True)\n"
        f"    while not os.path.exists({str(go)!r}): __import__('time').sleep(0.02)\n"
        "    return x",
    )
    monkeypatch.setattr(embedder, "COMMAND", [sys.executable, "-c", slow.format(works=True)])
    one, found = embedder.Embedder(idle=0.1), list[object]()
    one._lock = door = Door()  # type: ignore[assignment]
    one.start()
    asker = threading.Thread(target=lambda: found.append(one.ask(**question())))
    asker.start()
    try:
        assert eventually(asked.exists)
        # The idle time has passed: the watching thread wants to end the process.
        assert eventually(lambda: door.waiting == 1)
        go.touch()
        asker.join(60)
        assert len(found) == 1 and found[0] is not None
        assert len(asked.read_text().split()) == 1, "the process was ended and asked again"
    finally:
        go.touch()
        one.stop()


def test_a_question_that_kills_it_kills_it_twice_at_most(quick: embedder.Embedder) -> None:
    quick.start()
    assert quick.ask(**question(seed=13)) is None
    assert quick.pid is None and quick.ask(**question()) is None


def test_where_it_cannot_compile_or_cannot_start_nobody_is_kept_waiting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in (
        [sys.executable, "-c", QUICK.format(works=False)],
        [str(tmp_path / "no-python")],
    ):
        monkeypatch.setattr(embedder, "COMMAND", command)
        one = embedder.Embedder()
        one.start()
        assert one.ask(**question()) is None and one.pid is None
    monkeypatch.setitem(sys.modules, "umap", None)
    one = embedder.Embedder()
    one.start()
    assert one.pid is None, "a process without umap-learn"


def test_nobody_waits_for_its_start_nor_for_ever_where_it_does_not_get_to_compile(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow = QUICK.format(
        works=(
            "[__import__('time').sleep(0.02) for _ in iter(lambda:"
            f" os.path.exists({str(tmp_path / 'go')!r}), True)] is not None"
        )
    )
    monkeypatch.setattr(embedder, "COMMAND", [sys.executable, "-c", slow])
    monkeypatch.setattr(embedder, "PATIENCE", 0.1)
    one = embedder.Embedder()
    one.start()
    try:
        assert (
            one.ask(**question()) is None
            and one.pid is not None
            and alive(one.pid)
            and not one.ready
        )
        monkeypatch.setattr(embedder, "PATIENCE", 120.0)
        (tmp_path / "go").touch()
        assert one.ask(**question()) is not None and one.ready, "it does not go on by itself"
    finally:
        one.stop()


@pytest.mark.long
@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGINT"])
def test_it_ends_with_its_parent_even_while_it_compiles(name: str) -> None:
    code = (
        "import time\nfrom robustviz import embedder\nembedder.APP.start()\nprint(embedder.APP.pid,"
        " flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=folder.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.SIG_DFL
        ),  # A shell that starts a program with & makes it ignore SIGINT, so restore the default.
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert eventually(lambda: spent(pid) > 0.3)  # The process is importing its modules.
    assert alive(pid)
    parent.send_signal(getattr(signal, name))
    parent.communicate(timeout=120)
    assert ended(pid)


def test_who_is_interrupted_leaves_no_answer_for_the_next(
    quick: embedder.Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick.start()
    first, receive = quick.pid, embedder._receive
    assert quick.ask(**question()) is not None

    def interrupted(pipe: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(embedder, "_receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick.ask(**question(seed=3))
    monkeypatch.setattr(embedder, "_receive", receive)
    assert first is not None and ended(first)
    answer = quick.ask(**question(seed=5))
    assert answer is None or np.array_equal(answer, question()["x"][:, :2] * 5 + 0.5)


@pytest.mark.slow
@pytest.mark.skipif(
    os.name == "nt", reason="Windows sends Ctrl-C to a whole console, the test's own included"
)
def test_the_app_starts_one_and_leaves_none_behind(runs_home: Path, port: int) -> None:
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

    app = subprocess.Popen(
        [sys.executable, "-m", "robustviz", "app", "--no-browser", f"--port={port}"],
        cwd=folder.REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    assert app.stdout is not None
    try:
        assert app.stdout.readline().endswith(f":{port}\n")

        def processes() -> list[psutil.Process]:
            return [
                one
                for one in psutil.Process(app.pid).children(recursive=True)
                if "robustviz.embedder" in one.cmdline()
            ]

        assert not processes(), "one runs before anybody looks"
        hello = BackMsg()
        hello.rerun_script.query_string = ""
        with connect(
            f"ws://{launch.HOST}:{port}/_stcore/stream",
            subprotocols=["streamlit"],
            proxy=None,
            max_size=None,
        ) as visitor:  # type: ignore[list-item]
            for _ in range(2):
                visitor.send(hello.SerializeToString())
                while (
                    ForwardMsg.FromString(visitor.recv(timeout=120)).WhichOneof("type")
                    != "script_finished"
                ):
                    pass
                found = processes()
                assert len(found) == 1
        app.terminate()
        app.wait(120)
    finally:
        app.kill()
        app.communicate()
    assert ended(found[0].pid)


# The results.


def cloud(n: int, d: int = 16, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=rng)
        + 3 * torch.randn(10, d, generator=rng)[torch.arange(n) % 10]
    ).double()


def test_the_nearest_are_those_of_a_whole_sort_ties_included() -> None:
    # Some rows occur twice, and some are far from all others.
    z = torch.cat([cloud(300), cloud(300)[:150], torch.zeros(2, 16), 2 * cloud(300)[:70]])
    for among in (None, z[:400].round()):
        rows, far = embedding.nearest(z, 15, among)
        u, bank = measures.unit(z), measures.unit(z if among is None else among)
        block = (1 - u @ bank.T).clamp(0, 2)
        if among is None:
            block.fill_diagonal_(-1)
        expected, at = block.sort(dim=1, stable=True)
        assert torch.equal(rows, at[:, :15]) and torch.equal(far, expected[:, :15].clamp(min=0))
    grid = torch.randint(
        0, 3, (200, 2), generator=torch.Generator().manual_seed(0)
    ).double()  # Many distances are equal.
    block = torch.cdist(grid, grid).round()
    expected, at = block.sort(dim=1, stable=True)
    distance, row = embedding._least(block, 9)
    assert torch.equal(row, at[:, :9]) and torch.equal(distance, expected[:, :9])


def test_how_many_epochs_and_from_where(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, bool]] = []

    def map_of(
        x: np.ndarray,
        rows: np.ndarray,
        far: np.ndarray,
        init: np.ndarray | None,
        *,
        epochs: int,
        **settings: object,
    ) -> np.ndarray:
        asked.append((epochs, init is not None))
        return x[:, :2]

    monkeypatch.setattr(embedder, "map_of", map_of)
    z, many = cloud(1000), cloud(5000)
    for points, more in (
        (z[:999], {}),
        (z, {}),
        (many[1:], {}),
        (many, {}),
        (z, {"init": z[:, :2]}),
        (z, {"epochs": 7}),
        (z, {"init": z[:, :2], "epochs": 7}),
    ):
        embedding.umap(points, **more)
    assert asked == [
        (500, False),
        (300, False),
        (300, False),
        (200, False),
        (50, True),
        (7, False),
        (7, True),
    ]
    with pytest.raises(
        UserError, match=r"two finite numbers for each of the 1000 points: .* the shape \(999, 2\)"
    ):
        embedding.umap(z, init=z[:999, :2])
    with pytest.raises(UserError, match=r"must be a tensor .* is a str"):
        embedding.umap(z, init="spectral")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"n_neighbors='15' is not a whole number"):
        embedding.umap(z, n_neighbors="15")  # type: ignore[arg-type]
    at = embedding.umap(z, init=z[:, :2], n_neighbors=15)
    assert torch.equal(embedding.umap(z, init=z[:, :2].numpy(), n_neighbors=15.0), at)


def test_a_plane_has_no_unit() -> None:
    z = torch.randn((30, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    axes, _, share = embedding.plane(z)
    for scale in (1e-13, 1e-90, 1e90):
        again, _, same = embedding.plane(scale * z)
        assert torch.allclose(again, axes, atol=1e-9) and same == pytest.approx(share, rel=1e-9)
        y = torch.arange(30) % 2
        assert torch.allclose(
            embedding.centre_plane(scale * z, y, 2)[0],
            embedding.centre_plane(z, y, 2)[0],
            atol=1e-9,
        )
        with pytest.raises(UserError, match="collapsed"):
            embedding.plane(scale * torch.full((1000, 50), 0.1, dtype=torch.float64))


@pytest.mark.slow
def test_the_process_and_this_one_draw_the_same_map_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    z, later = cloud(2000), cloud(2000) + 0.2 * cloud(2000, seed=5)
    # A neighbour graph with two components.
    apart = torch.cat([cloud(40), 50 + 0.1 * cloud(40, seed=3)])
    lonely = embedder.Embedder()

    def maps() -> list[torch.Tensor]:
        first = embedding.umap(z)
        return [
            first,
            embedding.umap(later, init=first),
            embedding.umap(apart, seed=3),
            embedding.umap(z[:90], n_neighbors=5, min_dist=0.5),
            embedding.umap(later[:90], n_neighbors=5, init=first[:90]),
        ]

    lonely.start()
    try:
        monkeypatch.setattr(embedder, "APP", lonely)
        monkeypatch.setattr(embedder, "layout", lambda **asked: pytest.fail("computed here"))
        assert eventually(lambda: lonely.ready)
        costs = []
        for _ in range(2):
            before = spent(lonely.pid)
            embedding.umap(later, init=embedding.umap(z))
            costs.append(spent(lonely.pid) - before)
        assert costs[0] < 1.5 * costs[1] + 2, "it compiles on the user's time"
        there = maps()
        maps_file = Path(f"/proc/{lonely.pid}/maps")
        assert not maps_file.exists() or "torch" not in maps_file.read_text()
    finally:
        lonely.stop()
    monkeypatch.undo()
    for one, other in zip(there, maps(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_a_map_from_another_is_as_true_and_points_stay_where_they_are() -> None:
    z = cloud(1200)
    before = embedding.umap(z)
    later = z + 0.3 * cloud(1200, seed=5)
    after, anew = embedding.umap(later, init=before), embedding.umap(later)
    assert embedding.trustworthiness(later, after) > embedding.trustworthiness(later, anew) - 0.01
    wide = float((before.amax(0) - before.amin(0)).max())
    moved, jumped = ((at - before).norm(dim=1).median() for at in (after, anew))
    assert moved < 0.1 * wide and moved < 0.5 * jumped
    assert torch.equal(after, embedding.umap(later, init=before))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1000, 2000, 5000])
def test_fewer_epochs_for_a_crowd_cost_no_trustworthiness(n: int) -> None:
    for seed in range(3):
        z = cloud(n, seed=seed) ** 2
        few, many = (
            embedding.trustworthiness(z, embedding.umap(z, seed=seed, epochs=epochs))
            for epochs in (None, 500)
        )
        assert few > many - 0.01


# The film of epochs.


@pytest.mark.long
def test_a_film_by_umap_goes_from_the_last_epoch_backwards(
    monkeypatch: pytest.MonkeyPatch, runs_home: Path
) -> None:
    """With a layout function that needs no compilation, and whose result shows the features of the
    frame and the frame it started from.
    """
    run = next(
        run
        for run in folder.all_runs()
        if run.shipped and run.data_key == "digits" and len(run.snapshots) > 2
    )
    spec = FeatureFilmSpec(n=20, steps=1, projection="umap", seed=4)
    asked: list[int] = []

    def layout(
        x: np.ndarray,
        rows: np.ndarray,
        far: np.ndarray,
        init: np.ndarray | None = None,
        **settings: int,
    ) -> np.ndarray:
        asked.append(settings["epochs"])
        assert settings["seed"] == 4 and rows.shape == (40, 15)
        return x[:, :2] + (0 if init is None else init / 2)

    monkeypatch.setattr(embedder, "layout", layout)
    film = probes.feature_film.answer(run, spec)
    assert asked == [500] + [50] * (len(film.epochs) - 1)
    few = images_of(run).take(torch.arange(20))
    after = np.zeros((20, 2))
    for frame in reversed(range(len(film.epochs))):
        z, _ = features_of(run.net(epoch=int(film.epochs[frame])), few.x)
        after = z[:, :2].numpy() + after / 2
        assert np.allclose(film.clean[frame], after, atol=1e-5)
    assert film.meta["projection"] == "umap" and film.adversarial.shape == film.clean.shape
    figure = figures.feature_film(film)
    assert "UMAP from the last epoch back" in figure.layout.title.subtitle.text
    assert "In UMAP axes and gaps between groups have no meaning." in figure.layout.meta["sure"]
    with pytest.raises(UserError, match="UMAP needs at least 15 images, but there are 14"):
        probes.feature_film(run, FeatureFilmSpec(n=14, projection="umap"))
    plain = FeatureFilmSpec(n=20, steps=1, seed=4)
    assert (
        plain.projection == "centres"
        and "UMAP"
        not in figures.feature_film(probes.feature_film.answer(run, plain)).layout.meta["sentence"]
    )
    assert probes.feature_film.name(run, plain) != probes.feature_film.name(run, spec)


@pytest.mark.slow
def test_frames_by_umap_repeat_themselves_and_hang_together(runs_home: Path) -> None:
    run = next(
        run
        for run in folder.all_runs()
        if run.shipped and run.data_key == "digits" and len(run.snapshots) > 2
    )
    spec = FeatureFilmSpec(n=200, steps=2, projection="umap")
    film, again = (probes.feature_film.answer(run, spec) for _ in range(2))
    assert np.array_equal(film.clean, again.clean) and np.array_equal(
        film.adversarial, again.adversarial
    )
    wide = float((film.clean[-1].max(0) - film.clean[-1].min(0)).max())
    steps = np.median(np.linalg.norm(np.diff(film.clean, axis=0), axis=2), axis=1)
    assert (steps[len(steps) // 2 :] < 0.15 * wide).all(), (
        "late frames, of a network that hardly changes, jump"
    )
