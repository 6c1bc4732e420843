"""Make the shipped checkpoints: `python -m robustviz.zoo`. Cheapest first; what is finished is kept and not made again."""

from __future__ import annotations

import shutil

from robustviz import runs
from robustviz.config import TrainConfig
from robustviz.runs import Run

DATA = ("digits", "shapes")
METHODS = ("standard", "pgd_at", "trades")
SHIPPED = ("config.json", "status.json", "metrics.jsonl", "eval.json", "net.safetensors")  # the weights last: they say it is whole


def wanted() -> list[TrainConfig]:
    """The trainings whose results are shipped."""
    return [TrainConfig(data=data, method=method, device="cpu") for data in DATA for method in METHODS]  # type: ignore[arg-type]


def make() -> list[Run]:
    """Train, evaluate and probe each, then copy what is shipped into `checkpoints/zoo`; the shipped runs."""
    from robustviz import probes, worker

    out = []
    for config in wanted():
        target = runs.zoo() / config.run_id
        if not (target / "net.safetensors").exists():
            run = runs.create(config, folder=runs.home() / ".zoo-build")
            print(run.id, flush=True)
            worker.execute(run, lambda line: print("  " + line, flush=True))
            for probe in (probes.accuracy_curve, probes.smallest_eps):
                print("  " + probe(run).meta["summary"], flush=True)
            shutil.copytree(run.path / "probes", target / "probes", dirs_exist_ok=True)
            for name in SHIPPED:
                shutil.copy2(run.path / name, target / name)
        out.append(Run(target))
    known = {run.id for run in out}
    for folder in runs.zoo().iterdir():
        if folder.is_dir() and folder.name not in known:
            shutil.rmtree(folder)  # of settings that are not shipped any more
    return out


def main() -> int:
    """Make the zoo, the story that rests on it, and the hashes."""
    from robustviz import story

    for run in make():
        found = run.evaluation()
        assert found is not None
        print(f"{run.id:<48} clean {found.clean_acc:.3f}  PGD-20 {found.robust_acc:.3f}  eps {found.eps:.4f}  n={found.n}")
    return story.main()


if __name__ == "__main__":
    raise SystemExit(main())
