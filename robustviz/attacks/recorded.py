"""A step of an attack as a CUDA graph: on a GPU small kernels wait for their launches, and a graph launches them all at once.

What a step reads lies in the recording's own memory, into which each walk copies its images; the network's weights are
read where the lean copy keeps them. A step is recorded when it is wanted for the second time, the first one warms up.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KEPT = 8  # recordings of one network: each holds the memory of a step

Step = Callable[..., Tensor]  # (z, *given) -> z after one step


class Recording:
    """`step` for arguments like these. On a CPU it is called again on the recording's memory, which is what a GPU replays."""

    def __init__(self, step: Step, pool: Any, z: Tensor, *given: Tensor) -> None:
        self.step = step
        self.z, *self.given = (part.clone() for part in (z, *given))
        self.graph: torch.cuda.CUDAGraph | None = None
        if z.device.type == "cuda":
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # libraries choose their kernels here, which a capture does not allow
                for _ in range(2):
                    self._advance()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self._advance()

    def __call__(self, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        """z after so many steps; its own tensor."""
        for mine, now in zip((self.z, *self.given), (z, *given), strict=True):
            mine.copy_(now)
        for _ in range(steps):
            if self.graph is not None:
                self.graph.replay()
            else:
                self._advance()
        return self.z.clone()

    def _advance(self) -> None:
        self.z.copy_(self.step(self.z, *self.given))


class Recordings:
    """The recordings of one network, by what a step is: its function, its numbers, the shapes it is for."""

    def __init__(self) -> None:
        self.kept: dict[object, Recording] = {}
        self.asked: set[object] = set()
        self.refused: set[object] = set()
        self.pool: Any = None  # one memory for all: nothing of a step outlives it, so they may be replayed in any order
        self.busy = threading.Lock()  # that memory is one walk's at a time, and two pages may look at one network

    def walk(self, name: object, step: Step, steps: int, z: Tensor, *given: Tensor) -> Tensor:
        """z after so many steps of `step`; `name` says all that the step depends on besides its arguments and the weights."""
        key = (name, torch.is_autocast_enabled(z.device.type), *((part.shape, part.dtype, part.stride()) for part in (z, *given)))
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
                if self.pool is None and z.device.type == "cuda":
                    self.pool = torch.cuda.graph_pool_handle()
                recording = Recording(step, self.pool, z, *given)
            except RuntimeError as error:
                logging.getLogger(__name__).warning(
                    "A step could not be recorded as a CUDA graph, so it is launched kernel by kernel: %s", error
                )
                self.refused.add(key)
        self.asked.add(key)
        if recording is not None:
            self.kept[key] = recording  # the newest is the last
            while len(self.kept) > KEPT:
                del self.kept[next(iter(self.kept))]
        return recording


def wanted(z: Tensor) -> bool:
    """Whether steps on images like `z` are to be recorded: on a GPU."""
    return z.device.type == "cuda"
