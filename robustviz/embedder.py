"""UMAP layouts, and a separate process that compiles umap-learn before the first layout is needed.

umap-learn compiles for about ten seconds in each process that uses it, so the app starts a process
that compiles ahead of time and then computes the layouts. If that process does not run or fails,
the caller computes the same layout itself.
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
# The learning rate when a layout starts from another one. At umap-learn's 1, 50 epochs lose a tenth
# of the neighbours that a layout from scratch keeps.
CALM = 0.15
# The niceness of the process while it compiles. At 10, a page that was opened meanwhile took a
# third longer.
PRIORITY = 19
PATIENCE = 30.0  # seconds a caller waits for the compiling; on a busy machine it takes minutes
COMMAND = [sys.executable, "-m", "robustviz.embedder"]
# One thread for linear algebra. Helper threads would keep the low priority of the compiling thread,
# and waiting for them beside a training takes up to seven times as long.
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
STARTS = 2  # how often the process is started at most: once more after it has died
IDLE = 300.0  # seconds without a request after which the process ends
# Warnings of umap-learn that are hidden: that the index for `transform` and Tensorflow are missing,
# which are not used here, and that it starts from a random layout instead of a spectral one.
UNSAID: dict[str, type[Warning]] = {
    "precomputed_knn": Warning,
    "Tensorflow not installed": ImportWarning,
    "Spectral initialisation failed": UserWarning,
}
_LENGTH = struct.Struct("<q")
# UMAP's compiled code aborts the process when two threads run it at once.
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
    """The UMAP layout (N, 2), float32, of points `x` (N, D) from their nearest neighbours: `rows`
    (N, k) holds the row indices of each point's neighbours, the point itself first, and `far` (N,
    k) their cosine distances. The layout starts from umap-learn's spectral layout or, if `init` (N,
    2) is given, from that layout, which is not rescaled or shifted first. `seed`, `min_dist` and
    `epochs` are umap-learn's `random_state`, `min_dist` and `n_epochs`.

    Raises UserError if umap-learn is not installed or cannot lay these points out.
    """
    known = rows.astype(np.int32), far.astype(np.float32)
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        for message, category in UNSAID.items():
            warnings.filterwarnings("ignore", message=message, category=category)
        try:
            import umap
        except ImportError:
            raise UserError(
                "This map needs umap-learn, which is not installed: run `pip install umap-learn`."
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
                # else points whose neighbours are all at cosine distance 2 would get no position
                disconnection_distance=np.inf,
            ).fit_transform(np.ascontiguousarray(x, dtype=np.float32))
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise UserError(
                f"umap-learn cannot lay out these {len(x)} points"
                f" ({' '.join(str(error).split())}): use more images, or another projection."
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
    """The layout that starts from `init`, made with umap-learn's own parts. umap-learn's parameter
    `init` is not used, because it would first stretch the layout to a square of 10 by 10, so that
    every point would jump.
    """
    rng, (rows, far) = np.random.RandomState(seed), known
    graph = umap.umap_.fuzzy_simplicial_set(
        x, rows.shape[1], rng, "cosine", knn_indices=rows, knn_dists=far
    )[0].tocoo()
    graph.data[graph.data < graph.data.max() / epochs] = 0  # sampled less than once
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
    """The separate process that computes layouts. `start` returns at once; `ask` sends one request
    and waits for the answer, one request at a time. After `idle` seconds without a request the
    process ends, because it holds 400 MB; the next request starts it again.

    The process ends when its input pipe closes, so it never outlives the app. It imports neither
    torch nor the code for runs: it receives arrays and sends back a layout.
    """

    def __init__(self, idle: float = IDLE) -> None:
        self._idle, self._asked, self._resting = idle, 0.0, False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._greeted = threading.Event()
        self._starts = 0

    def start(self) -> None:
        """Start the process and let it compile, without waiting; does nothing if it was started
        before or umap-learn is not installed.
        """
        if not self._starts and importlib.util.find_spec("umap") is not None:
            with self._lock:
                if not self._starts:
                    self._spawn()

    @property
    def ready(self) -> bool:
        """Whether the process runs and has compiled, so that `ask` need not wait for that."""
        return self._process is not None and self._greeted.is_set() and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The id of the process; None if there is no process, because it was not started or has
        ended.
        """
        return None if self._process is None else self._process.pid

    def ask(self, **question: Any) -> Array | None:
        """The result of `layout` for these arguments, computed by the process; waits up to
        `PATIENCE` seconds until it has compiled. If the process dies, it is started once more.
        Returns None if the process was not started, has not compiled in time or fails; the caller
        can then call `layout` itself. Raises UserError where `layout` raised it in the process.
        """
        with self._lock:
            if self._resting:
                self._starts, self._resting = 0, False
                self._spawn()
            while self._process is not None:
                try:
                    with self._noted():
                        return self._answer(self._process, question)
                except UserError:  # the process answered with an error for the user
                    raise
                except (OSError, ValueError):  # the process died
                    self._end()
                except BaseException:  # its late answer would be taken for the next one
                    self._end()
                    raise
                if self._starts < STARTS:
                    self._spawn()
            return None

    def stop(self) -> None:
        """End the process and do not start it again."""
        with self._lock:
            self._starts, self._resting = STARTS, False
            self._end()

    def _spawn(self) -> None:
        self._starts += 1
        path = filter(None, [str(Path(__file__).resolve().parents[1]), os.getenv("PYTHONPATH")])
        with contextlib.suppress(OSError):  # no memory or too many processes
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
        """A context manager that records the time at its end as that of the last request."""
        try:
            yield
        finally:
            self._asked = time.monotonic()

    def _attend(self, process: subprocess.Popen[bytes], greeted: threading.Event) -> None:
        """Watch the process; this runs in a thread. Waits until the process has compiled, then ends
        it once it has had no request for `idle` seconds.
        """
        _greet(process, greeted)
        with self._noted():
            pass
        while process.poll() is None:
            if (rest := self._asked + self._idle - time.monotonic()) > 0:
                time.sleep(rest)
                continue
            with self._lock:
                idle = time.monotonic() - self._asked >= self._idle  # no request came meanwhile
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
        return answer.get("at")  # absent where it failed there; it may work here

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._greeted.wait()  # the other thread has stopped reading
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._process = None


def _greet(process: subprocess.Popen[bytes], greeted: threading.Event) -> None:
    """Wait for the process's first message, which it sends when it has compiled, or for the end of
    its output if it died; then set `greeted`.
    """
    assert process.stdout is not None
    with contextlib.suppress(OSError, ValueError):
        _receive(process.stdout)
    greeted.set()


APP = Embedder()  # the app's process; it does not run before `start`


def map_of(*arrays: Array | None, **settings: Any) -> Array:
    """The UMAP layout (N, 2) that `layout` gives for `arrays`, which are `x`, `rows`, `far` and
    `init` (or None) in this order, and for its other arguments, `settings`. The app's helper
    process computes the layout; if that process does not run or fails, this one does.
    """
    named = dict(zip(("x", "rows", "far", "init"), arrays, strict=True)) | settings
    at = APP.ask(**named)
    return layout(**named) if at is None else at


def _send(pipe: IO[bytes], arrays: dict[str, Any]) -> None:
    body = io.BytesIO()
    np.savez(body, **arrays)
    pipe.write(_LENGTH.pack(body.tell()) + body.getvalue())
    pipe.flush()


def _receive(pipe: IO[bytes]) -> dict[str, Any] | None:
    """Read the next message from the pipe, a dict of arrays and numbers; None if the pipe has
    ended.
    """
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
    """The main loop of the separate process: answer requests, one after the other, until the input
    closes, then exit at once, even in the middle of a computation.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the app, not for this process
    asked: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # libraries that print must not write to the pipe
    threading.Thread(target=_work, args=(asked, answers), daemon=True).start()
    while (question := _receive(sys.stdin.buffer)) is not None:
        asked.put(question)
    os._exit(0)


def _work(asked: queue.SimpleQueue[dict[str, Any]], answers: IO[bytes]) -> None:
    # Compile in a thread of its own: on Linux the niceness applies to that thread only, so answers
    # are computed at full speed. Elsewhere the whole process keeps its low priority.
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
    """Compile everything that `layout` uses by running it on toy data, at low priority. Returns
    whether that worked.
    """
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
