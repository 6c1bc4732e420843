"""B0: the two ceilings of this device, matrix products and copying, against which B1, B2 and B3 are
read.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.harness import Outcome, Racer, Time, race
from robustviz.nets.attackable import has_bf16
from robustviz.nets.base import frozen
from robustviz.training.config import default_threads

SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
# FLOPs between two looks at a GPU's clock: 25 ms of an H200, beside which starting and waiting are
# nothing
BUSY = 2e13
COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes; far more than any cache holds
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """Products of square matrices and a copy; on a CPU with one thread and with as many as
    everything else here is given.
    """
    for threads in sorted({1, default_threads()}) if device == "cpu" else (0,):
        words = f"{threads} thread{'s' if threads > 1 else ''}" if threads else "one GPU"
        with _threads(threads):
            for dtype in NAMES if has_bf16(device) else (torch.float32,):
                found = {size: product(device, dtype, size, rounds or 5) for size in SIZES[device]}
                rates = {size: 2 * size**3 / time.least for size, time in found.items()}
                best = max(rates, key=rates.__getitem__)
                note = (
                    "Random numbers;"
                    f" {', '.join(f'{size}³ {spell(rate)}FLOP/s' for size, rate in rates.items())}."
                )
                yield Outcome(
                    "B0",
                    f"{NAMES[dtype]} GEMM at {spell(rates[best])}FLOP/s",
                    f"{best}³, {words}",
                    (found[best],),
                    note=note,
                )
            size = _copied(device)
            time = copying(device, size, rounds or 5)
            yield Outcome(
                "B0",
                f"copying at {spell(2 * size / time.least)}B/s, read and written",
                f"{size / 2**30:g} GiB, {words}",
                (time,),
            )


def product(device: str, dtype: torch.dtype, size: int, rounds: int) -> Time:
    """Seconds of a product of two square matrices of random numbers: zeros would draw less power
    and be faster.
    """
    rng = torch.Generator(device=device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=rng, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    repeat = max(1, round(BUSY / (2 * size**3))) if device == "cuda" else 1

    def run() -> None:
        for _ in range(repeat):
            torch.mm(a, b, out=out)

    (time,) = race([Racer("torch.mm", run)], rounds, device)
    return Time(time.name, tuple(seconds / repeat for seconds in time.seconds), time.first)


def copying(device: str, size: int, rounds: int) -> Time:
    """Seconds of copying so many bytes from one place of the device's memory to another."""
    here = torch.ones(size // 4, device=device)
    there = torch.zeros_like(here)
    (time,) = race([Racer("Tensor.copy_", lambda: there.copy_(here))], rounds, device)
    return time


@functools.cache
def gemm_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of the best square product, with so many threads on a CPU."""
    with _threads(threads if device == "cpu" else 0):
        return max(2 * size**3 / product(device, dtype, size, 3).least for size in SIZES[device])


def step_flops(net: nn.Module, x: Tensor) -> float:
    """FLOPs that one step of an attack needs for one image in convolutions and linear layers:
    forward, and as many back to the image; no gradient of a weight. A multiplication and an
    addition are two. As torch's `FlopCounterMode` counts, which takes seconds to import.
    """
    seen: list[int] = []

    def count(layer: nn.Module, given: object, out: Tensor) -> None:
        seen.append(2 * out[0].numel() * layer.weight[0].numel())

    hooks = [
        layer.register_forward_hook(count)
        for layer in net.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        with frozen(net), torch.no_grad():
            net(x[:1])
    finally:
        for hook in hooks:
            hook.remove()
    return 2.0 * sum(seen)


def reached(seconds: float, flops: float, device: str, dtype: torch.dtype) -> float:
    """`flops` in `seconds` as a fraction of the rate of products on this device."""
    return flops / seconds / gemm_rate(device, dtype, torch.get_num_threads())


def share(name: str, seconds: float, flops: float, device: str, dtype: torch.dtype) -> str:
    """A sentence: what rate `flops` in `seconds` is, and how much of the product's."""
    ceiling = gemm_rate(device, dtype, torch.get_num_threads())
    rate = flops / seconds
    return (
        f"{name}: {spell(rate)}FLOP/s of needed work, {100 * rate / ceiling:.0f} % of the"
        f" {NAMES[dtype]} GEMM rate ({spell(ceiling)}FLOP/s)."
    )


def spell(rate: float) -> str:
    """A rate up to its unit, e.g. `788 T`."""
    return f"{rate / 1e12:.3g} T" if rate >= 1e12 else f"{rate / 1e9:.3g} G"


def _copied(device: str) -> int:
    """Bytes to copy: less than the usual where the GPU is small."""
    size = COPIED[device]
    return (
        size
        if device == "cpu"
        else min(size, torch.cuda.get_device_properties(0).total_memory // 8 // 2**28 * 2**28)
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """Inside, torch has so many threads; 0: as many as it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
