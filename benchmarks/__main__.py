"""`python -m benchmarks [--only B1,B9]`: compare the speed of robustviz with other libraries on
this machine, print the results, and write them to a JSON file and to the pages made from it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path

# keeps torch's profiler from printing a line whenever it starts
os.environ.setdefault("KINETO_LOG_LEVEL", "5")

import torch

from benchmarks import harness, report, setting
from robustviz.runs.folder import write_file
from robustviz.training.config import default_threads
from robustviz.types import UserError

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


def main(arguments: list[str] | None = None) -> int:
    known = report.items()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help=f"items with commas between: {', '.join(known)}")
    parser.add_argument(
        "--rounds", type=int, default=0, help="rounds of each race; 0: what each item finds enough"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="the JSON file; default: that of this kind of machine in benchmarks/results",
    )
    parser.add_argument(
        "--readme",
        action="store_true",
        help="race nothing; write docs/speed.md's table and RESULTS.md from the JSON files again",
    )
    given = parser.parse_args(arguments)
    if given.readme:
        report.write(report.measured())
        return 0
    chosen = [name.strip().upper() for name in given.only.split(",") if name.strip()] or list(known)
    if unknown := [name for name in chosen if name not in known]:
        print(
            f"There is no item {', '.join(unknown)}; there are {', '.join(known)}.", file=sys.stderr
        )
        return 2
    torch.set_num_threads(default_threads())
    setting.find_shared_data()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    out = given.out or RESULTS / f"{harness.kind()}.json"
    found = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {"items": {}}
    failed = 0
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{known[name]}")
        started, outcomes = time.perf_counter(), list[harness.Outcome]()
        try:
            for one in module.outcomes(device, given.rounds):
                print(
                    *([] if outcomes else [f"# {name}"]),
                    harness.told(one),
                    sep="\n\n",
                    end="\n\n",
                    flush=True,
                )
                outcomes.append(one)
                found["items"][name] = {
                    "machine": harness.machine(),
                    "outcomes": [one.to_json() for one in outcomes],
                }
                out.parent.mkdir(exist_ok=True)
                # saved after each outcome, because the GPU may be available for minutes only
                write_file(out, json.dumps(found, indent=1).encode())
        except (UserError, ImportError) as error:
            print(f"{name}: left out. {error}", file=sys.stderr)
            failed += 1
            continue
        print(
            f"({time.perf_counter() - started:.0f} s)\n" if outcomes else elsewhere(name, device),
            flush=True,
        )
    if given.out is None:
        report.write(report.measured())
    return 1 if failed else 0


def elsewhere(name: str, device: str) -> str:
    """The message for an item that this device cannot measure, with the right command."""
    if device == "cpu":
        return (
            f"{name} is raced on a GPU and this machine has none that torch can use; where there is"
            f" one, `make bench ONLY={name}` takes its figures."
        )
    return (
        f"{name} is raced on a CPU, and this machine has a GPU: `CUDA_VISIBLE_DEVICES= make bench"
        f" ONLY={name}` takes its figures."
    )


if __name__ == "__main__":
    sys.exit(main())
