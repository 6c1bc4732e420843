"""`python -m robustviz check`: is this machine ready for a lesson, and if not, what to fix first?

Only the standard library is imported at the top, so that the check runs even where every package is
missing.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from robustviz import __version__, paths
from robustviz.process import default_threads, threads

CHECKPOINTS = paths.ROOT / "checkpoints"
SHIPPED = ("seeds", "story", "zoo")  # the folders of `checkpoints` that come with robustviz
LIST = "SHA256SUMS"
LITTER = {"Thumbs.db", "desktop.ini"}  # files that file managers create, besides hidden ones

TRAINING = ("torch", "torchvision", "numpy", "pillow", "safetensors", "filelock", "psutil")
PAGES = ("streamlit", "plotly", "altair", "pandas", "scikit-learn", "grad-cam", "umap-learn")
EXTRAS = ("scipy", "pyautoattack")
OLDEST = (3, 11)
INSTALL = f"python -m {paths.INSTALL}"
BRING_BACK = "git checkout -- checkpoints" if paths.CHECKOUT else "install robustviz again"

BATCH = 64


def check(*, tell: Callable[[str], object] = print) -> dict[str, Any]:
    """Check this machine and return the findings as a dict that is ready for JSON. `tell` is called
    with each line of the report; the last line is READY, or NOT READY and the first problem.

    In the dict, `problems` are sentences, usually the most urgent one first, and `ready` says
    whether there are none; the other keys are facts such as `versions` and `device`. The folder of
    the user's runs is created if it is missing, to test whether it is writable. Takes about three
    seconds plus the import of torch. Never raises.
    """
    facts: dict[str, Any] = {"ready": False, "problems": []}
    for part in (_versions, _device, _folders, _data, _checkpoints, _speed):
        try:
            part(facts, tell)
        except Exception as error:  # the check must go on, on any machine
            facts["problems"].append(
                f"{part.__name__.strip('_').capitalize()} could not be checked"
                f" ({type(error).__name__}: {error})."
            )
            tell(facts["problems"][-1])
    facts["ready"] = not facts["problems"]
    tell("READY" if facts["ready"] else f"NOT READY: {facts['problems'][0]}")
    return facts


def check_class(*, tell: Callable[[str], object] = print) -> dict[str, Any]:
    """Check whether a class on the local network could join: listen on a free port and connect to
    it by this computer's network address. Returns a dict with `ready`, `problems` (sentences) and
    `address` (left out if this computer has none); `tell` is called with one line of text. A
    firewall between two computers cannot be detected from one of them.
    """
    from robustviz.types import UserError
    from robustviz.ui import launch

    facts: dict[str, Any] = {"ready": False, "problems": []}
    try:
        facts["address"] = host = launch.Network.found().host
        _reach(host, launch.free_port())
        facts["ready"] = True
        tell(
            f"A class can reach this computer at {host}; `app --class` prints the whole address."
            " Try it with one phone: a firewall or a guest network can keep devices apart."
        )
    except UserError as error:
        facts["problems"].append(str(error))
    except OSError as error:
        facts["problems"].append(
            f"A class cannot join at {facts['address']} ({error.strerror or error}): connect this"
            " computer to the class's network, or ask its administrator about the firewall."
        )
    if facts["problems"]:
        tell(facts["problems"][0])
    return facts


def _reach(host: str, port: int) -> None:
    """Open `port` to the network, as `app --class` does, and connect to it by the network address
    `host`. Raises OSError if that fails.
    """
    import socket

    with (
        socket.create_server(("0.0.0.0", port)) as door,
        socket.create_connection((host, port), timeout=3) as guest,
    ):
        door.settimeout(3)
        inside, _ = door.accept()
        with inside:
            inside.settimeout(3)
            guest.sendall(b"?")
            if inside.recv(1) != b"?":
                raise OSError("another program answers there")


def _versions(facts: dict[str, Any], tell: Callable[[str], object]) -> None:
    packages = {name: _version(name) for name in (*TRAINING, *PAGES, *EXTRAS)}
    python = platform.python_version()
    facts["versions"] = {"python": python, "robustviz": __version__} | packages
    facts["system"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    tell(f"Python {python} on {facts['system']}, robustviz {__version__}")
    tell("Packages: " + ", ".join(f"{name} {packages[name] or 'MISSING'}" for name in packages))
    if sys.version_info < OLDEST:
        facts["problems"].append(
            f"Python {python} is too old: install 3.11 or newer, and make .venv with it."
        )
    facts["problems"] += [
        f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed ({what}):"
        f" {INSTALL}"
        for names, what in (
            (TRAINING, "needed for everything"),
            (PAGES, "needed for the pages, not for training"),
            (EXTRAS, "needed only for intervals of means, SVHN and AutoAttack"),
        )
        if (missing := [name for name in names if packages[name] is None])
    ]


def _version(package: str) -> str | None:
    """The installed version of a package; None if it is not installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return None


def _device(facts: dict[str, Any], tell: Callable[[str], object]) -> None:
    try:
        import torch
    except Exception as error:
        # installed but broken: a system library is missing, or the download was cut off
        if facts["versions"]["torch"]:
            facts["problems"].append(
                f"torch is installed but cannot be imported ({str(error).splitlines()[0]}): install"
                " it again."
            )
            tell(facts["problems"][-1])
        return
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        facts["device"] = {
            "kind": "cuda",
            "name": card.name,
            "count": torch.cuda.device_count(),
            "bytes": card.total_memory,
            "bf16": bool(torch.cuda.is_bf16_supported()),
        }
        tell(
            f"Device: {card.name}, {card.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda},"
            f" bf16 {'yes' if facts['device']['bf16'] else 'no'}"
        )
        return
    with contextlib.suppress(ImportError):
        import psutil

        facts["memory"] = psutil.virtual_memory().total
    able: Mapping[str, Any] = {}
    with contextlib.suppress(Exception):  # get_capabilities is new in torch 2.12
        able = torch.cpu.get_capabilities()
    facts["device"] = {
        "kind": "cpu",
        "name": able.get("cpu_name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": default_threads(),
        # whether bf16 is fast: every CPU can do it slowly
        "bf16": any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16")),
    }
    memory = f", {facts['memory'] / 2**30:.0f} GiB" if "memory" in facts else ""
    tell(
        f"Device: CPU {facts['device']['name']}, {os.cpu_count()} cores{memory};"
        f" a training uses {default_threads()} of them; bf16 arithmetic is"
        f" {'fast' if facts['device']['bf16'] else 'slow'}"
    )


def _folders(facts: dict[str, Any], tell: Callable[[str], object]) -> None:
    import tempfile

    from robustviz.runs import folder as runs

    home = runs.home()
    facts |= {"runs": str(home), "writable": False}
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"robustviz")
        facts["writable"] = True
    except OSError as error:
        facts["problems"].append(
            f"{home} cannot be written to ({error.strerror or error}): make it writable, or set"
            " ROBUSTVIZ_RUNS to another folder."
        )
    tell(f"Runs go to {home}: {'writable' if facts['writable'] else 'NOT WRITABLE'}")


def _data(facts: dict[str, Any], tell: Callable[[str], object]) -> None:
    from robustviz import data

    root = data.root()
    facts |= {"data_root": str(root), "data": []}
    # The root may not exist: digits and shapes need no file, other data is fetched on first use.
    with contextlib.suppress(OSError):
        folders = (place.name for place in root.iterdir() if place.is_dir())
        facts["data"] = sorted(name for name in folders if not name.startswith("."))
    tell(
        f"Data in {root}: {', '.join(facts['data']) or 'none yet'} (digits and shapes need no file)"
    )


def _checkpoints(facts: dict[str, Any], tell: Callable[[str], object]) -> None:
    facts["checkpoints"] = problems = verify_hashes()
    facts["checkpoint_files"] = count = len(_shipped())
    if problems:
        facts["problems"].append(f"{problems[0]} Restore the shipped files: {BRING_BACK}")
    whole = f"all {count} files are intact" if count else "none here"
    for line in problems or [f"Shipped checkpoints: {whole}"]:
        tell(line)


def _speed(facts: dict[str, Any], tell: Callable[[str], object]) -> None:
    if "device" not in facts or any(facts["versions"][name] is None for name in TRAINING):
        return
    # the shapes lesson: numbers of training images, validation images and epochs
    train, val, epochs = 2000, 500, 20
    facts["images_per_second"] = rate = images_per_second(facts["device"]["kind"])
    facts["lesson_seconds"] = seconds = epochs * (train + val) / rate
    tell(
        f"Speed: {rate:.0f} images a second in PGD-AT (small_resnet, 32x32): the shapes lesson,"
        f" {train:,} images x {epochs} epochs, takes about"
        f" {f'{seconds:.0f} s' if seconds < 100 else f'{seconds / 60:.0f} min'}"
    )


def images_per_second(device: str, seconds: float = 3.0) -> float:
    """On how many 32×32 images per second PGD-AT with 10 steps trains on `device`, "cpu" or "cuda":
    small_resnet, batches of 64, measured for at least `seconds`.
    """
    import torch
    import torch.nn.functional as F

    from robustviz import nets
    from robustviz.attacks import PGD

    with threads(default_threads()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            net = nets.build("small_resnet", classes=10, channels=3, size=32).to(device).train()
        rng = torch.Generator(device).manual_seed(0)
        x = torch.rand((BATCH, 3, 32, 32), generator=rng, device=device)
        y = torch.arange(BATCH, device=device) % 10
        attack = PGD(eps=8 / 255, steps=10)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

        def step() -> None:
            torch.autograd.backward(F.cross_entropy(net(attack(net, x, y, rng=rng)), y))
            optimiser.step()
            optimiser.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()

        step()  # the first step is slower: it allocates and compiles
        done, start = 0, time.perf_counter()
        while done == 0 or time.perf_counter() - start < seconds:
            step()
            done += BATCH
        return done / (time.perf_counter() - start)


# The list of shipped files, which `sha256sum -c SHA256SUMS` in `checkpoints` can read too.


def write_hashes() -> Path:
    """Write `checkpoints/SHA256SUMS` anew and return its path: one line for each shipped file,
    sorted, the same on every system.
    """
    from robustviz.runs.folder import write_file

    write_file(
        CHECKPOINTS / LIST,
        "".join(f"{sha256(path)}  {name}\n" for name, path in sorted(_shipped().items())).encode(),
    )
    return CHECKPOINTS / LIST


def verify_hashes() -> list[str]:
    """Compare the shipped files with `SHA256SUMS`. Returns one sentence for each file that is
    missing, changed or not in the list, and for each damaged line; a single sentence if the list is
    missing or cannot be read. Empty if all is well, or if there is neither a list nor a shipped
    file.
    """
    there = _shipped()
    try:
        lines = (CHECKPOINTS / LIST).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return (
            [f"checkpoints/{LIST} is missing, so the shipped checkpoints cannot be checked."]
            if there
            else []
        )
    except (OSError, UnicodeDecodeError):
        return [f"checkpoints/{LIST} cannot be read."]
    problems, listed = [], set[str]()
    for number, line in enumerate(lines, 1):
        if entry := re.fullmatch(r"([0-9a-fA-F]{64})  (.+)", line):
            digest, name = entry.groups()
            listed.add(name)
            if name not in there:
                problems.append(f"checkpoints/{name} is missing.")
            elif sha256(there[name]) != digest.lower():
                problems.append(f"checkpoints/{name} differs from the file that was shipped.")
        elif line.strip():
            problems.append(f"Line {number} of checkpoints/{LIST} is damaged.")
    return [
        *problems,
        *(f"checkpoints/{name} was not shipped." for name in sorted(there.keys() - listed)),
    ]


def sha256(path: Path) -> str:
    """The hex SHA-256 of a file's content; if the file cannot be read, an empty string, which
    equals no digest.
    """
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _shipped() -> dict[str, Path]:
    """The path of every shipped file by its name in the list, which is the path relative to
    `checkpoints`, with `/` on every system. Hidden files, files in hidden folders, and those in
    `LITTER` are left out.
    """
    return {
        name: path
        for folder in SHIPPED
        for path in sorted((CHECKPOINTS / folder).rglob("*"))
        if path.is_file() and path.name not in LITTER
        if "/." not in (name := path.relative_to(CHECKPOINTS).as_posix())
    }
