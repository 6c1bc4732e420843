"""Reads and hashes the weights of a run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

MOST_HEADER = 2_000_000  # bytes of a safetensors file's header; a thousand tensors take 150,000


def weights_in(path: Path) -> dict[str, torch.Tensor]:
    """Returns the tensors of a safetensors file by name, on the CPU, floats as float32. Raises
    ValueError if the file's header is so long that reading it would take a minute, or if some
    values are NaN or infinite (robustviz writes no such files), SafetensorError for a damaged file,
    and OSError for one that cannot be read.
    """
    from safetensors.torch import load_file

    with open(path, "rb") as file:
        if int.from_bytes(file.read(8), "little") > MOST_HEADER:
            raise ValueError("its list of tensors is too long")
    found = load_file(path)
    if not all(value.isfinite().all() for value in found.values() if value.is_floating_point()):
        raise ValueError("some values are no numbers")
    return {
        name: value.float() if value.is_floating_point() else value for name, value in found.items()
    }


def hash_of(net: nn.Module) -> str:
    """Returns a hash (16 hex digits) of a network's weights and buffers, equal on every device."""
    digest = hashlib.sha256()
    for name, value in net.state_dict().items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().double().numpy().tobytes())
    return digest.hexdigest()[:16]
