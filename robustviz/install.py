"""Installs a requirements file into this Python: `python -m robustviz.install FILE`, as `make app`
and `make test` do. Says how large the download is, and takes PyTorch's CPU build if there is no
NVIDIA GPU.

Only the standard library is imported, because nothing else is installed yet.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

# Gigabytes of requirements.txt, torch 2.15: (download, on disk). With CUDA: measured on Linux.
WITH_CUDA = (3.4, 6.8)
WITHOUT_CUDA = (0.6, 2.2)
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def install(file: Path, options: Sequence[str] = ()) -> int:
    """Install the packages pinned in `file` with pip. If the pinned torch and torchvision are not
    installed yet, first print how large the download is, and take PyTorch's CPU build if there is
    no NVIDIA GPU and the package index has that build.

    Returns pip's exit status, 0 if all went well; or 1, without calling pip, if the disk has too
    little space. `options` are passed to pip.
    """
    pins = torch_pins(file)
    wanted: tuple[str, ...] = ()
    if not _installed(pins):
        if has_cuda_build() and not has_gpu():
            wanted = cpu_pins(pins, options)
        cuda = has_cuda_build() and not wanted
        download, disk = WITH_CUDA if cuda else WITHOUT_CUDA
        print(
            f"Installing the packages of {file.name}: about {download} GB to download,"
            f" {disk} GB on disk. {_why(cuda, bool(wanted))}",
            flush=True,
        )
        free = shutil.disk_usage(sys.prefix).free / 1e9
        if free < disk:
            print(
                f"{sys.prefix} has {free:.1f} GB free, and about {disk} GB are needed: make room"
                " there, then give the same command again.",
                file=sys.stderr,
            )
            return 1
    return subprocess.run([*PIP, "install", *options, *wanted, "-r", str(file)]).returncode


def place(packages: Path, checkout: Path) -> bool:
    """Make robustviz importable from `checkout`, whatever the working folder is: write a .pth file
    into `packages`, this Python's folder of packages. A copy installed with pip is still found
    first.

    Returns whether the file was written. It is not if this Python is not that of a virtual
    environment directly inside the checkout, such as `.venv`.
    """
    if Path(sys.prefix).resolve().parent != checkout.resolve():
        return False
    (packages / "robustviz-checkout.pth").write_text(f"{checkout}\n", encoding="utf-8")
    return True


def _why(cuda: bool, chosen: bool) -> str:
    if chosen:
        return "No NVIDIA GPU was found, so PyTorch's CPU build is taken."
    if not cuda:
        return ""
    if has_gpu():
        return "An NVIDIA GPU was found; most of it is CUDA."
    return "No NVIDIA GPU was found, but this package index has no CPU build; most of it is CUDA."


def torch_pins(file: Path) -> dict[str, str]:
    """The exact versions of torch and torchvision in a requirements file, by name; files included
    with `-r` are read too. Other packages, and pins with a marker or a local version
    such as +cpu, are left out.
    """
    pins: dict[str, str] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"-r\s+(\S+)", line):
            pins |= torch_pins(file.parent / found[1])
        elif found := re.match(r"(torch|torchvision)==([\w.]+)\s*(?:#|$)", line):
            pins[found[1]] = found[2]
    return pins


def cpu_pins(pins: dict[str, str], options: Sequence[str] = ()) -> tuple[str, ...]:
    """The pins of the CPU builds of the same versions, such as `torch==2.15.0+cpu`; empty if `pins`
    is empty or pip does not find all of them. `options` are passed to pip.
    """
    wanted = tuple(f"{name}=={version}+cpu" for name, version in pins.items())
    asked = [*PIP, "install", "--dry-run", "--no-deps", "--quiet", *options, *wanted]
    found = bool(wanted) and subprocess.run(asked, capture_output=True).returncode == 0
    return wanted if found else ()


def has_cuda_build() -> bool:
    """Whether the default torch for this system comes with CUDA: on Linux on x86-64 and ARM it
    does.
    """
    return sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")


def has_gpu() -> bool:
    """Whether NVIDIA's driver is installed, from which a GPU is assumed: `nvidia-smi` is on the
    PATH, or the Linux driver reports its version.
    """
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia/version").exists()


def _installed(pins: dict[str, str]) -> bool:
    """Whether exactly these versions are installed, as CPU builds or as others."""
    try:
        found = {name: importlib.metadata.version(name).partition("+")[0] for name in pins}
    except importlib.metadata.PackageNotFoundError:
        return False
    return found == pins


if __name__ == "__main__":
    os.environ.setdefault("PIP_NO_INPUT", "1")
    failed = install(Path(sys.argv[1]), sys.argv[2:])
    if not failed:
        place(Path(sysconfig.get_path("purelib")), Path(__file__).resolve().parents[1])
    sys.exit(failed)
