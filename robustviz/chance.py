"""Chance of a thread's own. torch's global generator belongs to the whole process: to seed it is
felt by every other thread.
"""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

# What is drawn without naming a generator, in torch's initialisations and in our own networks.
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
    """Inside, in this thread, whatever would be drawn from torch's global generator comes from
    `rng`, to the same numbers that the global one gives after the same seed. The global one stays
    as it is.
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
