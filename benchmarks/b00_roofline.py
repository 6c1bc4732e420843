"""B0: the hardware limits of this device, matrix products and copying, with which B1, B2 and B3 are
compared.
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
# FLOPs in one timing on a GPU: 25 ms on an H200, so that the overhead of launching and
# synchronising is negligible
BUSY = 2e13
COPIED = {"cpu": 2**28, "cuda": 2**32}  # bytes to copy, far more than fit in any cache
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


def outcomes(device: str, rounds: int) -> Iterator[Outcome]:
    """The speed of products of square matrices and of a copy.

    On a CPU both are measured with one thread and with as many threads as all other benchmarks use.
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
    """Seconds for a product of two square matrices of random numbers.

    Zeros would need less power and be faster.
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
    """Seconds for copying `size` bytes from one place in the device's memory to another."""
    here = torch.ones(size // 4, device=device)
    there = torch.zeros_like(here)
    (time,) = race([Racer("Tensor.copy_", lambda: there.copy_(here))], rounds, device)
    return time


@functools.cache
def gemm_rate(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of the fastest square product; on a CPU with this number of threads."""
    with _threads(threads if device == "cpu" else 0):
        return max(2 * size**3 / product(device, dtype, size, 3).least for size in SIZES[device])


def step_flops(net: nn.Module, x: Tensor) -> float:
    """FLOPs that one attack step needs for one image in convolutions and linear layers.

    They are those of the forward pass, and as many again for the gradient of the image; gradients
    of weights are not needed. A multiplication and an addition count as two. The result agrees with
    torch's `FlopCounterMode`, which takes seconds to import.
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
    """`flops` in `seconds` as a fraction of the rate of matrix products on this device."""
    return flops / seconds / gemm_rate(device, dtype, torch.get_num_threads())


def share(name: str, seconds: float, flops: float, device: str, dtype: torch.dtype) -> str:
    """A sentence with the rate of `flops` in `seconds`, also as a share of `gemm_rate`."""
    ceiling = gemm_rate(device, dtype, torch.get_num_threads())
    rate = flops / seconds
    return (
        f"{name}: {spell(rate)}FLOP/s of needed work, {100 * rate / ceiling:.0f}% of the"
        f" {NAMES[dtype]} GEMM rate ({spell(ceiling)}FLOP/s)."
    )


def spell(rate: float) -> str:
    """A rate with the prefix of its unit, for example `788 T`."""
    return f"{rate / 1e12:.3g} T" if rate >= 1e12 else f"{rate / 1e9:.3g} G"


def _copied(device: str) -> int:
    """The number of bytes to copy: less than usual on a GPU with little memory."""
    size = COPIED[device]
    return (
        size
        if device == "cpu"
        else min(size, torch.cuda.get_device_properties(0).total_memory // 8 // 2**28 * 2**28)
    )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """A context in which torch uses `count` threads; 0 leaves the number unchanged."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
