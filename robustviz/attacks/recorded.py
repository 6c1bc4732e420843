"""A step of an attack as a CUDA graph: on a GPU small kernels wait for their launches, and a graph
launches them all at once.

Experimental: no GPU has run it yet; `make gpu-check` measures it and says whether its results are
those of plain steps.

What a step reads lies in the recording's own memory, into which each walk copies its images;
weights are read where the network's kept copy has them, which is part of a recording's name. A step
is recorded when it is wanted for the second time, the first one warms up. Only networks of this
package are recorded: another one's forward may do what no graph repeats.
"""

import functools
import gc
import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KEPT = 8  # recordings of one network: each holds memory for a batch, all share that of a step
_capturing = threading.Lock()  # torch captures one graph at a time, of all networks

Step = Callable[..., Tensor]  # (z, *given) -> z after one step
Place = tuple[Any, torch.cuda.Stream]  # the memory of a capture and its stream
_stream: Callable[[torch.device | int], torch.cuda.Stream] = torch.cuda.Stream


class Recording:
    """`step` for arguments like these. On a CPU it is called again on the recording's memory, which
    is what a GPU replays.
    """

    def __init__(self, step: Step, place: Place | None, z: Tensor, *given: Tensor) -> None:
        self.z, *self.given = memory = [part.clone() for part in (z, *given)]

        def advance() -> None:
            memory[0].copy_(step(*memory))

        self.advance: Callable[[], None] = advance
        if place is not None:
            # on its device, or the graph would be one of another device: empty
            with _capturing, torch.cuda.device(z.device):
                # nothing of the step is held, since it holds the network, which holds this: both
                # would wait for the collector of cycles
                self.advance = _captured(advance, *place).replay

    def __call__(self, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        """z after so many steps; its own tensor."""
        for mine, now in zip((self.z, *self.given), (z, *given), strict=True):
            mine.copy_(now)
        for _ in range(steps):
            self.advance()
        return self.z.clone()


def _captured(
    advance: Callable[[], None], pool: Any, stream: torch.cuda.Stream
) -> torch.cuda.CUDAGraph:
    """One step as a graph. A graph destroyed meanwhile would spoil it, so the collector rests."""
    side = _side(stream.device_index)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries choose their kernels, which a capture does not allow
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
    """The recordings of one network, by what a step is: its function, its numbers, the shapes it is
    for.
    """

    def __init__(self) -> None:
        self.kept: dict[object, Recording] = {}
        self.asked: set[object] = set()
        self.refused: set[object] = set()
        # One memory for all: nothing of a step outlives it, so they may be replayed in any order.
        # And a stream to record on: what cuBLAS works in belongs to the stream and lies in that
        # memory, which another network's graphs must not lean on.
        self.place: Place | None = None
        # that memory is one walk's at a time, and two pages may look at one network
        self.busy = threading.Lock()

    def walk(self, name: object, step: Step, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        """z after so many steps of `step`; `name` says all that the step depends on besides its
        arguments and the weights.
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
        """The recording of this key, if it has been asked for before; the oldest one makes room."""
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
            self.kept[key] = recording  # the newest is the last
            while len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        return recording


@functools.cache
def _side(device: int) -> torch.cuda.Stream:
    """Where steps warm up on that GPU: always the same stream, since cuBLAS keeps memory
    for each.
    """
    return _stream(device)


def wanted(z: Tensor) -> bool:
    """Whether steps on images like `z` are to be recorded: on a GPU."""
    return z.device.type == "cuda"
