"""The tests of attacks, networks and training on other processors than this one, as far as one
processor can play another.

`python tests/cpus.py` (`make test-cpus`) runs them under every setting of `SETTINGS`; names after
it pick some. The short form, `facts`, is what `make test` compares: how many images withstand each
attack, and what a training step does. What a setting changes must stand before torch is imported,
so each has a process of its own.
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
NAME = "ROBUSTVIZ_TEST_CPU"  # which setting a process stands under
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
"""  # ends by itself when whoever started it is gone


@dataclass(frozen=True)
class Setting:
    """One kind of processor. `environment` is read by torch as it starts; without `onednn` torch
    computes convolutions itself, as on Apple silicon; `cores` 1 is a machine with a single one;
    beside the tests run so many `busy` loops.
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
    """Let this process stand under a setting; before torch is imported."""
    from robustviz.process import leave_out_triton

    assert "torch" not in sys.modules, "a setting comes too late where torch has been imported"
    leave_out_triton()
    setting = SETTINGS[name]
    os.environ.update(setting.environment)
    if setting.cores and hasattr(os, "sched_setaffinity"):  # elsewhere one thread has to do
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: setting.cores])
    if not setting.onednn:
        import torch

        torch.backends.mkldnn.set_flags(False)


def pytest_load_initial_conftests() -> None:
    """With `-p tests.cpus`: the tests stand under the setting that the environment names, before a
    conftest imports torch.
    """
    apply(os.environ[NAME])


@contextlib.contextmanager
def under(name: str) -> Iterator[dict[str, str]]:
    """Inside, the loops of a setting are busy; gives the environment for a process that stands
    under it.
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
    """What has to be the same on every processor, and what this one is.

    `right`: by attack, how many of 200 digits withstand it, in a network that was adversarially
    trained; `loss`: of two steps of PGD-AT on a new network, and how far they `moved` its weights.
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
    """Run the tests under the settings that were asked for, else all but the usual one; 1 where a
    test failed.
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
