"""The processes that share one training, started by torchrun on one machine: which of them this one
is, and how they exchange values. A single process needs no torchrun and, for this module, no torch.
The first process (rank 0) obeys pause and stop, validates, prints and writes; all processes train.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from robustviz.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

# How long processes wait for each other: the first one may download images or validate a large
# network meanwhile. If one process fails, torchrun ends them all.
PATIENCE = timedelta(days=1)

# set by `_notes`; the store lives in torchrun, so it outlives each of the processes
_store: tuple[Any, int, int] | None = None


@dataclass(frozen=True)
class World:
    """The processes of one training: `rank` is the index of this process, from 0, and `size` their
    number. The default is a single process.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the first process, which validates and writes."""
        return self.rank == 0

    def part(self, n: int, together: int = 1) -> slice:
        """Returns the slice of `n` consecutive items that this process handles. Groups of
        `together` items stay in one share; the shares are consecutive and differ in size by at most
        one group. A single process gets everything.
        """
        groups = -(-n // together)
        return slice(
            self.rank * groups // self.size * together,
            min(n, (self.rank + 1) * groups // self.size * together),
        )

    def broadcast(self, *numbers: int) -> list[int]:
        """Returns, in every process, the `numbers` that the first process passed; all must pass
        equally many. Waits for the first process.
        """
        if self.size == 1:
            return list(numbers)
        import torch

        said = torch.tensor(numbers, dtype=torch.int64)
        torch.distributed.broadcast(said, 0)
        return [int(number) for number in said]

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Returns the mean of each value (a scalar tensor) over the processes, by name. All must
        pass the same names in the same order. Waits for all of them.
        """
        if self.size == 1 or not values:
            return values
        import torch

        device = next(iter(values.values())).device
        both = torch.stack([value.cpu() for value in values.values()])
        torch.distributed.all_reduce(both)
        return dict(zip(values, (both / self.size).to(device), strict=True))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """A context manager that runs its block in the first process, and only then in the others:
        the first may download what the others then find on disk.
        """
        if not self.main:
            self.broadcast(0)
        yield
        if self.main:
            self.broadcast(0)

    def leave(self) -> None:
        """Wait for all processes and close the process group; from then on each process works
        alone.
        """
        if self.size > 1:
            import torch

            torch.distributed.all_reduce(torch.zeros(1))
            torch.distributed.destroy_process_group()

    def lost(self, error: BaseException) -> bool:
        """Whether `error` only says that another process has ended; False in a single process."""
        if self.size == 1:
            return False
        import torch

        return isinstance(error, torch.distributed.DistError) or (
            isinstance(error, RuntimeError) and "gloo" in str(error)
        )


ALONE = World()


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


def join() -> World:
    """Join the processes that torchrun started, once all have started, and return their `World`.
    They communicate over gloo, and over NCCL between GPUs, and from here on process k uses GPU k if
    there is one. Without torchrun it returns `ALONE`; further calls return the same world.

    Raises UserError if the processes are on several machines, because each of them would need the
    run folder.
    """
    if not launched():
        return ALONE
    import torch

    if torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    # Harmless: it is about a dimension of length 1, such as the channels of grey images.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    local = int(os.environ["LOCAL_RANK"])
    store, rank, size = _notes()
    if os.environ.get("LOCAL_WORLD_SIZE", str(size)) != str(size):
        raise UserError(
            "The processes of one training share its run folder, so all must be on one machine: use"
            " torchrun without --nnodes."
        )
    gpus = torch.cuda.device_count()
    if local < gpus:
        torch.cuda.set_device(local)
    # gloo as well as NCCL: the numbers broadcast before every batch must not wait for a GPU
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus and torch.distributed.is_nccl_available() else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    return World(rank, size)


def reports_errors() -> bool:
    """Whether this process should report an error: True in the first process that calls this, False
    in the others, which fail because of the first. If torchrun's store cannot be reached, it is
    True in rank 0 only. Always True if there is only one process.
    """
    if not launched():
        return True
    rank = os.environ["RANK"]
    try:
        return bool(_notes()[0].compare_set("failed", "", rank) == rank.encode())
    except (RuntimeError, ValueError):  # torchrun and its store have ended, or cannot be found
        return rank == "0"


def _notes() -> tuple[Any, int, int]:
    """Returns torchrun's key-value store, the rank of this process and the number of processes. The
    store lets any process report an error, not only rank 0: if another process fails first,
    torchrun ends rank 0 before it can say anything.
    """
    global _store
    from torch.distributed.rendezvous import rendezvous

    _store = _store or next(rendezvous("env://"))
    return _store
