"""Random numbers for one thread. torch's global generator belongs to the whole process, so seeding
it would change the random numbers of every other thread.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# Functions that torch's initialisations and our own networks call without a generator.
DRAWS = (
    "normal_",
    "uniform_",
    "rand",
    "randn",
    "rand_like",
    "randn_like",
    "bernoulli",
    "bernoulli_",
    "randint",
    "randperm",
    "multinomial",
)


class drawn_from(TorchFunctionMode):
    """A context manager: inside it, random numbers of this thread come from `rng` instead of
    torch's global generator, which stays as it is. This holds for the functions in `DRAWS` if no
    generator is passed, and for all functions that are called with `generator=None`. `rng` gives
    the same numbers as the global generator would after the same seed.
    """

    def __init__(self, rng: torch.Generator) -> None:
        super().__init__()
        self.rng = rng

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if (getattr(func, "__name__", "") in DRAWS or "generator" in given) and given.get(
            "generator"
        ) is None:
            given["generator"] = self.rng
        return func(*args, **given)
