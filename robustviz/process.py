"""What a process of our own does before it imports torch: the command line, a training's worker,
the tests. A program that imports robustviz as a library is left as it is.
"""

from __future__ import annotations

import sys


def leave_out_triton() -> None:
    """Have triton taken for not installed, as it is on Windows, on macOS and beside a torch for
    CPUs.

    torch imports it for torch.compile's GPU kernels, which nothing here uses. That takes 70 MB, and
    where anything still holds one of its objects when the process ends, two screens of "nanobind:
    leaked …" follow. Once torch is imported this does nothing: what torch has found it may want.
    """
    if "torch" not in sys.modules:
        sys.modules.setdefault("triton", None)  # type: ignore[arg-type]  # what the import system itself writes for "there is none"
