"""Attack steps recorded as CUDA graphs, which launch all kernels of a step at once.
Experimental: no GPU has run it yet; `make gpu-check` compares it with plain steps. A step reads the
images from fixed memory and the weights from the network's copy. Networks from outside this package
are not recorded, since their forward may do what a graph cannot repeat.
"""

import functools
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KEPT = 8  # recordings per network; each keeps memory for a batch, all share the memory of a step
_capturing = threading.Lock()  # torch can capture only one graph at a time in a process

Step = Callable[..., Tensor]  # (z, *given) -> z after one step
Place = tuple[Any, torch.cuda.Stream]  # the graph memory pool and the stream used for capturing
_stream: Callable[[torch.device | int], torch.cuda.Stream] = torch.cuda.Stream


class Recording:
    """One recorded `step`, for arguments with the shapes and dtypes of `z` and `given`.

    With a `place` (on a GPU) it is a CUDA graph. Without one (on a CPU) the step is called
    normally, on the recording's own memory, which is the computation that a GPU would replay.
    """

    def __init__(self, step: Step, place: Place | None, z: Tensor, *given: Tensor) -> None:
        self.z, *self.given = memory = [part.clone() for part in (z, *given)]

        def advance() -> None:
            memory[0].copy_(step(*memory))

        self.advance: Callable[[], None] = advance
        if place is not None:
            # with another current device the graph would be captured there and stay empty
            with _capturing, torch.cuda.device(z.device):
                # Keep only the graph: `step` refers to the network, which refers to this recording,
                # and such a reference cycle would be freed only by the garbage collector.
                self.advance = _captured(advance, *place).replay

    def __call__(self, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        """Returns `z` after `steps` steps, as a new tensor."""
        for mine, now in zip((self.z, *self.given), (z, *given), strict=True):
            mine.copy_(now)
        for _ in range(steps):
            self.advance()
        return self.z.clone()


def _captured(
    advance: Callable[[], None], pool: Any, stream: torch.cuda.Stream
) -> torch.cuda.CUDAGraph:
    """Captures one step as a CUDA graph, after running it twice to warm up.

    Garbage collection is off meanwhile, since destroying another graph would spoil the capture.
    """
    side = _side(stream.device_index)
    side.wait_stream(torch.cuda.current_stream())
    # warm-up: libraries choose kernels here, which a capture does not allow
    with torch.cuda.stream(side):
        for _ in range(2):
            advance()
    torch.cuda.current_stream().wait_stream(side)
    graph, collects = torch.cuda.CUDAGraph(), gc.isenabled()
    gc.disable()
    try:
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            advance()
    finally:
        if collects:
            gc.enable()
    return graph


class Recordings:
    """The recorded steps of one network.

    A recording is found by a key: all that the step depends on, and the shapes of its tensors. A
    step is recorded when its key is asked for the second time; the first time, it runs normally.
    """

    def __init__(self) -> None:
        self.kept: dict[object, Recording] = {}
        self.asked: set[object] = set()
        self.refused: set[object] = set()
        # One memory pool for all recordings: a step's temporary values are not used after it, so
        # the graphs may be replayed in any order. It comes with a stream of its own, because cuBLAS
        # allocates its workspace per stream, inside that pool, and graphs of other networks must
        # not use it.
        self.place: Place | None = None
        # only one thread may use that memory at a time, and two pages may attack the same network
        self.busy = threading.Lock()

    def walk(self, name: object, step: Step, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        """Returns `z` after `steps` calls of `step`, replayed from a recording if there is one.

        `name` must identify everything the step depends on besides its arguments and the weights.
        """
        key = (
            name,
            torch.is_autocast_enabled(z.device.type),
            *((part.shape, part.dtype, part.stride()) for part in (z, *given)),
        )
        with self.busy:
            recording = self._recorded(key, step, z, *given)
            if recording is not None:
                return recording(steps, z, *given)
        for _ in range(steps):
            z = step(z, *given)
        return z

    def _recorded(self, key: object, step: Step, z: Tensor, *given: Tensor) -> Recording | None:
        """The recording for this key; None at the key's first request, and if recording fails.

        A failure is logged and not tried again. At most `KEPT` recordings are stored; the least
        recently used ones are dropped.
        """
        recording = self.kept.pop(key, None)
        if recording is None and key in self.asked and key not in self.refused:
            try:
                if z.device.type == "cuda" and (
                    self.place is None or self.place[1].device != z.device
                ):
                    self.place = torch.cuda.graph_pool_handle(), _stream(z.device)
                recording = Recording(step, self.place, z, *given)
            except RuntimeError as error:
                logging.getLogger(__name__).warning(
                    "A step could not be recorded as a CUDA graph, so it is launched kernel by"
                    " kernel: %s",
                    error,
                )
                self.refused.add(key)
        self.asked.add(key)
        if recording is not None:
            # reinserted at the end, so the first is the least recently used
            self.kept[key] = recording
            while len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        return recording


@functools.cache
def _side(device: int) -> torch.cuda.Stream:
    """The stream on which steps warm up on GPU number `device`.

    Every call returns the same stream, since cuBLAS keeps memory for every stream.
    """
    return _stream(device)


def wanted(z: Tensor) -> bool:
    """Whether steps on images like `z` should be recorded: only on a GPU."""
    return z.device.type == "cuda"
