"""Runs the tests of attacks, networks and training under simulated processors, as far as one
processor can simulate another.

`python tests/cpus.py` (`make test-cpus`) runs them under every setting in `SETTINGS`, or only under
the settings named as arguments. The short form, `facts`, is compared by `make test`: how many
images each attack fails to fool, and the results of two training steps. A setting must be applied
before torch is imported, so each has a process of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
NAME = "ROBUSTVIZ_TEST_CPU"  # The environment variable that names the setting of a process.
TESTS = (
    "tests/contracts",
    "tests/golden",
    "tests/unit/test_balls.py",
    "tests/unit/test_cam.py",
    "tests/unit/test_doctor.py",
    "tests/unit/test_evaluate.py",
    "tests/unit/test_frozen.py",
    "tests/unit/test_attackable.py",
    "tests/unit/test_nets.py",
    "tests/unit/test_recorded.py",
    "tests/unit/test_training.py",
    "tests/unit/test_waiting.py",
)
BUSY = """
import os, sys, time
end, parent = time.monotonic() + 7200, int(sys.argv[1])
while time.monotonic() < end and os.getppid() == parent: pass
"""  # The loop ends when its parent process has ended.


@dataclass(frozen=True)
class Setting:
    """One simulated processor. torch reads `environment` when it starts. With `onednn` False, torch
    computes convolutions without oneDNN, as on Apple silicon. `cores` limits the number of cores; 0
    means no limit. `busy` busy loops run beside the tests.
    """

    environment: dict[str, str] = field(default_factory=dict)
    onednn: bool = True
    cores: int = 0
    busy: int = 0


SETTINGS = {
    "usual": Setting(),
    "AVX2": Setting({"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "scalar": Setting({"ATEN_CPU_CAPABILITY": "default"}),
    "without-onednn": Setting(onednn=False),
    "one-core": Setting(cores=1),
    "busy": Setting(busy=2),
}


def apply(name: str) -> None:
    """Applies a setting to this process. Must be called before torch is imported."""
    from robustviz.process import leave_out_triton

    assert "torch" not in sys.modules, "a setting comes too late where torch has been imported"
    leave_out_triton()
    setting = SETTINGS[name]
    os.environ.update(setting.environment)
    # Other systems cannot limit the cores; there, the number of threads must suffice.
    if setting.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.cores])
    if not setting.onednn:
        import torch

        torch.backends.mkldnn.set_flags(False)


def pytest_load_initial_conftests() -> None:
    """With `-p tests.cpus`: applies the setting named in the environment before a conftest imports
    torch.
    """
    apply(os.environ[NAME])


@contextlib.contextmanager
def under(name: str) -> Iterator[dict[str, str]]:
    """Runs the busy loops of a setting, and yields the environment for a process under that
    setting.
    """
    loops = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(os.getpid())])
        for _ in range(SETTINGS[name].busy)
    ]
    try:
        yield {**os.environ, NAME: name, "PYTHONPATH": str(REPOSITORY)}
    finally:
        for loop in loops:
            loop.kill()
        for loop in loops:
            loop.wait()


def facts() -> dict[str, Any]:
    """Returns the numbers that must be the same on every processor, and a description of this
    processor.

    `right`: for each attack, how many of 200 digits an adversarially trained network still
    classifies correctly; `loss`: the losses of two PGD-AT steps on a new network; `moved`: how far
    those steps moved its weights.
    """
    import torch

    from robustviz import data
    from robustviz.attacks import APGD, CW, DIM, FGSM, MIM, PGD, TIM, Square
    from robustviz.methods import PGDAT
    from robustviz.runs import folder
    from robustviz.runs.naming import unusual
    from robustviz.training.config import TrainConfig
    from robustviz.training.evaluate import count_right
    from robustviz.training.loop import Training

    torch.set_num_threads(1)
    split = data.load("digits", "test").take(200)
    net = next(
        run
        for run in folder.all_runs()
        if run.shipped and not unusual(run) and run.id.startswith("digits-pgd-at-small-resnet-s0")
    ).net()
    attacks = (
        FGSM(eps=0.2),
        PGD(eps=0.2, steps=5),
        PGD(eps=0.6, norm="l2", steps=5),
        MIM(eps=0.2, steps=5),
        DIM(eps=0.2, steps=5),
        TIM(eps=0.2, steps=5),
        CW(eps=0.2, steps=5),
        APGD(eps=0.2, steps=5),
        Square(eps=0.2, queries=20),
    )
    right = {
        f"{attack.key} {attack.norm}": int(count_right(net, split.x, split.y, attack).sum())
        for attack in attacks
    }
    right["pgd bf16"] = int(count_right(net, split.x, split.y, attacks[1], bf16=True).sum())
    training = Training(
        TrainConfig(
            data="digits",
            method=PGDAT(attack=PGD(steps=3)),
            n_train=64,
            batch_size=32,
            epochs=1,
            device="cpu",
        )
    )  # type: ignore[arg-type]
    before = [weight.detach().clone() for weight in training.net.parameters()]
    record = next(training.epochs())
    after = [weight.detach() for weight in training.net.parameters()]
    return {
        "right": right,
        "loss": sum(record.losses.values()),
        "moved": float(
            torch.stack([(a - b).norm() for a, b in zip(before, after, strict=True)]).sum()
        ),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.enabled,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
    }


def main(asked: list[str]) -> int:
    """Runs the tests under the given settings, or under all but the usual one. Returns 1 if a test
    failed.
    """
    if asked == ["facts"]:
        apply(os.environ[NAME])
        print(json.dumps(facts()))
        return 0
    if unknown := [name for name in asked if name not in SETTINGS]:
        print(
            f"There is no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}.",
            file=sys.stderr,
        )
        return 2
    failed = []
    for name in asked or list(SETTINGS)[1:]:
        print(f"\n# {name}", flush=True)
        with under(name) as environment:
            more = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "pytest",
                    "-p",
                    "tests.cpus",
                    "-q",
                    "-m",
                    "not slow",
                    *TESTS,
                ],
                cwd=REPOSITORY,
                env=environment | more,
            )
        failed += [name] if done.returncode else []
    print(
        f"\nFailed under: {', '.join(failed)}." if failed else "\nAll passed under every setting."
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
