"""One training on several processes: which of them this is, and what they must agree on. torchrun
starts them, all on one machine; without it there is one process, and nothing here asks for torch.

The first process (rank 0) reads the person's wishes, validates, prints and writes; the others take
part in every step.
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

# The first process may download images or validate a large network meanwhile. torchrun ends all
# when one fails.
PATIENCE = timedelta(days=1)

_store: tuple[Any, int, int] | None = (
    None  # see `_notes`; torchrun keeps it, so it outlives any of the processes
)


@dataclass(frozen=True)
class World:
    """The processes of one training: this one's number from 0, and how many there are. Alone by
    default.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    def part(self, n: int, together: int = 1) -> slice:
        """Where this process's share of `n` things in a row lies; `together` of them always stay in
        one share. Shares follow each other and differ by one group of `together` at most; alone it
        is everything.
        """
        groups = -(-n // together)
        return slice(
            self.rank * groups // self.size * together,
            min(n, (self.rank + 1) * groups // self.size * together),
        )

    def broadcast(self, *numbers: int) -> list[int]:
        """The first process's `numbers`, in all; each must hand over as many. Waits for the first
        process.
        """
        if self.size == 1:
            return list(numbers)
        import torch

        said = torch.tensor(numbers, dtype=torch.int64)
        torch.distributed.broadcast(said, 0)
        return [int(number) for number in said]

    def mean(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each value's mean over the processes, which must have the same names in the same order.
        Waits for all of them.
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
        """The first process goes through what is inside, then the others do: it may download what
        they then find.
        """
        if not self.main:
            self.broadcast(0)
        yield
        if self.main:
            self.broadcast(0)

    def leave(self) -> None:
        """End the common work, once all are here; what follows each process does for itself."""
        if self.size > 1:
            import torch

            torch.distributed.all_reduce(torch.zeros(1))
            torch.distributed.destroy_process_group()

    def lost(self, error: BaseException) -> bool:
        """Whether `error` only says that another process is gone."""
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
    """The world that torchrun started this process in, once all its processes are here: gloo, and
    nccl between GPUs, of which process k takes number k from here on. Without torchrun this process
    is alone. Asked again, it is the same world.

    Raises UserError where the processes are on several machines, which would need the run folder on
    all of them.
    """
    if not launched():
        return ALONE
    import torch

    if torch.distributed.is_initialized():
        return World(torch.distributed.get_rank(), torch.distributed.get_world_size())
    # It means the stride of a dimension of length 1, as a grey image's channels have.
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
    # gloo besides nccl: what is agreed on in every batch must not wait for a GPU
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus and torch.distributed.is_nccl_available() else "gloo",
        store=store,
        rank=rank,
        world_size=size,
        timeout=PATIENCE,
    )
    return World(rank, size)


def reports_errors() -> bool:
    """True for the first process to report an error; the others fail because that one did. Always
    True where there is only one process.
    """
    if not launched():
        return True
    rank = os.environ["RANK"]
    try:
        return bool(_notes()[0].compare_set("failed", "", rank) == rank.encode())
    except (
        RuntimeError,
        ValueError,
    ):  # torchrun is gone, and the store with it; or nothing says where it is
        return rank == "0"


def _notes() -> tuple[Any, int, int]:
    """torchrun's store, this process's number, and how many there are. Not the first process alone
    reports_errors: when another one fails before it, torchrun ends it before it has said a word.
    """
    global _store
    from torch.distributed.rendezvous import rendezvous

    _store = _store or next(rendezvous("env://"))
    return _store
