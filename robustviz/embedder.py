"""UMAP's layout, and a process of its own that has compiled it before anyone asks.

umap-learn compiles for ten seconds or so in every process that uses it. The app therefore starts
one process that does it at once, at low priority, and answers from then on; it lives until its
input closes, so it ends with the app however that ends. Where nobody asks for some minutes it is
ended, because it holds 400 MB, and it starts again for the next question. It knows neither torch
nor runs: arrays come in and a map goes out. Where no process was started (a notebook, the command
line, a test) or it cannot run, whoever asks computes here instead, to the same bits.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from robustviz.types import UserError

Array = NDArray[Any]
# of umap-learn's learning rate, from another map: at 1, 50 epochs lose a tenth of the neighbours
# that a new map keeps
CALM = 0.15
# how nice the process is to others while it compiles; at 10 a page opened meanwhile took a third
# longer
PRIORITY = 19
PATIENCE = 30.0  # seconds somebody waits for that; on a machine that is fully busy it takes minutes
COMMAND = [sys.executable, "-m", "robustviz.embedder"]
# Else linear algebra waits for helper threads, which stay as nice as the compiling was: beside a
# training, up to seven times as long.
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STARTS = 2  # a process that died is started once more
IDLE = 300.0  # seconds without a question after which it is ended
# umap-learn misses an index for `transform` and an unrelated package; neither is used. Where it
# finds no spectral start it takes a random one.
UNSAID: dict[str, type[Warning]] = {
    "precomputed_knn": Warning,
    "Tensorflow not installed": ImportWarning,
    "Spectral initialisation failed": UserWarning,
}
_LENGTH = struct.Struct("<q")
# UMAP's compiled code aborts the process where two threads run it at once.
_ONE_AT_A_TIME = threading.Lock()


def layout(
    x: Array,
    rows: Array,
    far: Array,
    init: Array | None = None,
    *,
    seed: int,
    min_dist: float,
    epochs: int,
) -> Array:
    """The map (N,2) float32 of points `x` (N,D) with their nearest neighbours `rows` (N,k), each
    point its own first, at distances `far` (N,k); from umap-learn's spectral start, or from the map
    `init` (N,2), whose scale and place are kept.

    Raises UserError where umap-learn is not installed, and where it finds no map.
    """
    known = rows.astype(np.int32), far.astype(np.float32)
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        for message, category in UNSAID.items():
            warnings.filterwarnings("ignore", message=message, category=category)
        try:
            import umap
        except ImportError:
            raise UserError(
                "This map comes from umap-learn, which is not installed: run `pip install"
                " umap-learn`."
            ) from None
        try:
            if init is not None:
                return _moved(umap, x, known, init, seed, min_dist, epochs)
            at = umap.UMAP(
                n_neighbors=rows.shape[1],
                min_dist=min_dist,
                metric="cosine",
                random_state=seed,
                n_jobs=1,
                precomputed_knn=known,
                force_approximation_algorithm=True,
                n_epochs=epochs,
                # else points whose neighbours all lie opposite, at 2, would be nowhere
                disconnection_distance=np.inf,
            ).fit_transform(np.ascontiguousarray(x, dtype=np.float32))
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise UserError(
                f"umap-learn finds no map of these {len(x)} points"
                f" ({' '.join(str(error).split())}): take more images, or another projection."
            ) from error
    return np.asarray(at, dtype=np.float32)


def _moved(
    umap: Any,
    x: Array,
    known: tuple[Array, Array],
    init: Array,
    seed: int,
    min_dist: float,
    epochs: int,
) -> Array:
    """The layout from the map `init`, by the parts of umap-learn: its own `init` stretches the map
    to a square of 10 by 10, and every point would jump.
    """
    rng, (rows, far) = np.random.RandomState(seed), known
    graph = umap.umap_.fuzzy_simplicial_set(
        x, rows.shape[1], rng, "cosine", knn_indices=rows, knn_dists=far
    )[0].tocoo()
    graph.data[graph.data < graph.data.max() / epochs] = 0  # would be drawn less than once
    graph.eliminate_zeros()
    at, limits = np.array(init, dtype=np.float32, order="C"), np.iinfo(np.int32)
    return np.asarray(
        umap.layouts.optimize_layout_euclidean(
            at,
            at,
            graph.row,
            graph.col,
            epochs,
            len(at),
            umap.umap_.make_epochs_per_sample(graph.data, epochs),
            *umap.umap_.find_ab_params(1.0, min_dist),
            rng.randint(limits.min + 1, limits.max - 1, 3).astype(np.int64),
            initial_alpha=CALM,
            negative_sample_rate=5,
            move_other=True,
        ),
        dtype=np.float32,
    )


class Embedder:
    """The other process: started without waiting, asked one question at a time, ended when nobody
    has asked for `idle` seconds.
    """

    def __init__(self, idle: float = IDLE) -> None:
        self._idle, self._asked, self._resting = idle, 0.0, False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._greeted = threading.Event()
        self._starts = 0

    def start(self) -> None:
        """Let the process start and compile, unless it was started before or umap-learn is not
        installed.
        """
        if not self._starts and importlib.util.find_spec("umap") is not None:
            with self._lock:
                if not self._starts:
                    self._spawn()

    @property
    def ready(self) -> bool:
        """Whether an answer would come without compiling."""
        return self._process is not None and self._greeted.is_set() and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process's number; None where none runs."""
        return None if self._process is None else self._process.pid

    def ask(self, **question: Any) -> Array | None:
        """`layout` of these arguments, once the process has compiled; None where it was not
        started, does not get to compile or cannot answer. Raises UserError where `layout` did.
        """
        with self._lock:
            if self._resting:
                self._starts, self._resting = 0, False
                self._spawn()
            while self._process is not None:
                try:
                    with self._noted():
                        return self._answer(self._process, question)
                except UserError:  # its answer is a sentence
                    raise
                except (OSError, ValueError):  # it died
                    self._end()
                except BaseException:  # what it still says would be taken for the next answer
                    self._end()
                    raise
                if self._starts < STARTS:
                    self._spawn()
            return None

    def stop(self) -> None:
        """End the process, for good."""
        with self._lock:
            self._starts, self._resting = STARTS, False
            self._end()

    def _spawn(self) -> None:
        self._starts += 1
        path = filter(None, [str(Path(__file__).resolve().parents[1]), os.getenv("PYTHONPATH")])
        with contextlib.suppress(OSError):  # no memory, too many processes: computed here instead
            self._process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | ALONE | {"PYTHONPATH": os.pathsep.join(path)},
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            self._greeted = threading.Event()
            threading.Thread(
                target=self._attend, args=(self._process, self._greeted), daemon=True
            ).start()

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Take down when the last question was over."""
        try:
            yield
        finally:
            self._asked = time.monotonic()

    def _attend(self, process: subprocess.Popen[bytes], greeted: threading.Event) -> None:
        """Take the process's first word, and end it once nobody asks any more."""
        _greet(process, greeted)
        with self._noted():
            pass
        while process.poll() is None:
            if (rest := self._asked + self._idle - time.monotonic()) > 0:
                time.sleep(rest)
                continue
            with self._lock:
                idle = time.monotonic() - self._asked >= self._idle  # nobody asked just now
                if idle and process is self._process:
                    self._end()
                    self._resting = True

    def _answer(self, process: subprocess.Popen[bytes], question: dict[str, Any]) -> Array | None:
        assert process.stdin is not None and process.stdout is not None
        if not self._greeted.wait(PATIENCE):
            return None
        _send(process.stdin, {name: value for name, value in question.items() if value is not None})
        if (answer := _receive(process.stdout)) is None:
            raise BrokenPipeError
        if "says" in answer:
            raise UserError(answer["says"])
        return answer.get("at")  # without one, something broke there that may not break here

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._greeted.wait()  # nobody reads any more
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process = None


def _greet(process: subprocess.Popen[bytes], greeted: threading.Event) -> None:
    """Take the process's first word, which says that it has compiled, or its last."""
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        _receive(process.stdout)
    greeted.set()


APP = Embedder()  # the app's one; nothing runs before `start`


def map_of(*arrays: Array | None, **settings: Any) -> Array:
    """`layout` of these, by the app's process where that runs, else here."""
    named = dict(zip(("x", "rows", "far", "init"), arrays, strict=True)) | settings
    at = APP.ask(**named)
    return layout(**named) if at is None else at


def _send(pipe: IO[bytes], arrays: dict[str, Any]) -> None:
    body = io.BytesIO()
    np.savez(body, **arrays)
    pipe.write(_LENGTH.pack(body.tell()) + body.getvalue())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> dict[str, Any] | None:
    """What was sent, None at the end."""
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if len(body := pipe.read(length)) < length:
        return None
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        return {
            name: found[name] if found[name].ndim else found[name].item() for name in found.files
        }


def serve() -> None:
    """Answer what comes in until the input closes; then end at once, whatever is being computed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the app's terminal is the app's
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not reach the pipe
    threading.Thread(target=_work, args=(asked, answers), daemon=True).start()
    while (question := _receive(sys.stdin.buffer)) is not None:
        asked.put(question)
    os._exit(0)


def _work(asked: queue.SimpleQueue[dict[str, Any]], answers: IO[bytes]) -> None:
    # On Linux niceness is a thread's own, so that answers come at full speed; elsewhere the process
    # stays nice.
    with ThreadPoolExecutor(1) as compiling:
        if not compiling.submit(_warm_up).result():
            os._exit(1)
    try:
        _send(answers, {})
        while True:
            _send(answers, _answer(asked.get()))
    except OSError:
        os._exit(0)


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"at": layout(**question)}
    except UserError as error:
        return {"says": str(error)}
    except Exception:
        return {}


def _warm_up() -> bool:
    """Compile everything that `layout` runs, on toy data; whether it worked."""
    try:
        if hasattr(os, "nice"):
            os.nice(PRIORITY)
        x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        u = x / np.linalg.norm(x, axis=1, keepdims=True)
        far = 1 - u @ u.T
        np.fill_diagonal(far, -1)
        rows = far.argsort(axis=1)[:, :15]
        far = np.take_along_axis(far, rows, 1).clip(0)
        layout(
            x,
            rows,
            far,
            layout(x, rows, far, seed=0, min_dist=0.1, epochs=11),
            seed=0,
            min_dist=0.1,
            epochs=11,
        )
    except Exception:
        return False
    return True


if __name__ == "__main__":
    serve()
