"""Make the shipped checkpoints: `python -m robustviz.zoo [DATA …]`. Cheapest first; what is
finished is kept and not made again, so a call that was cut off goes on where it was.

First every network is trained, then every ladder is climbed, so that half a night gives all
networks.
"""

import functools
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

from robustviz import cli, probes
from robustviz.data import Source, source
from robustviz.runs import folder as runs, worker
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

DATA = ("digits", "shapes")
METHODS = (
    "standard",
    "fgsm_at",
    "fgsm_rs",
    "supcon_margin",
    "pgd_at",
    "part",
    "alp",
    "aalp",
    "afa",
    "trades",
    "mart",
    "part_t",
    "part_m",
    "afa_trades",
)
# Ordinary networks, targets of transfer. No transformer on shapes: 2,000 images are too few for it
# (clean accuracy 0.62 with the data set's recipe).
OTHERS = {
    "digits": (("small_cnn", 0), ("small_resnet", 1), ("tiny_vit", 0)),
    "shapes": (("small_cnn", 0), ("small_resnet", 1), ("small_cnn", 1)),
}
# Training images of model alignment's witness, a small_cnn of seed 2. One that learned from all of
# them gets every one right: its hard answers are the true labels, and the controls `witness_hard`
# and `label` are one network. With these it gets 92 % of all training images right on both.
WITNESS = {"digits": 125, "shapes": 1200}
# on digits, every second epoch's weights in half precision
FILMED = ("pgd_at", "afa", "supcon_margin")
# images on which the whole ladder is climbed, AutoAttack included
LADDER = {"digits": 360, "shapes": 200}
# the weights last: they say it is whole
SHIPPED = ("config.json", "status.json", "metrics.jsonl", "eval.json", "net.safetensors")

_say = functools.partial(print, flush=True)


def wanted(data: Iterable[str] = DATA) -> list[TrainConfig]:
    """The trainings whose results are shipped, of these data sets, in the order in which they are
    made.
    """
    return [config for key in data for config in _of(source(key))]


def _of(images: Source) -> list[TrainConfig]:
    def config(method: str, *settings: tuple[str, object], **flags: object) -> TrainConfig:
        return TrainConfig.make(
            None, {"data": images, "method": method, "device": "cpu"} | flags, settings
        )

    standard, *methods = (
        config(key, snapshots=2 * (images.key == "digits" and key in FILMED)) for key in METHODS
    )
    others = [config("standard", net=net, seed=seed) for net, seed in OTHERS[images.key]]
    witness = config("standard", net="small_cnn", seed=2, n_train=WITNESS[images.key])
    return [
        standard,
        *others,
        witness,
        *(
            config(
                "model_alignment",
                ("method.source", standard.run_id),
                ("method.witness", witness.run_id),
                ("method.target", target),
            )
            for target in ("witness_soft", "witness_hard", "label")
        ),
        *methods,
    ]


def make(data: Iterable[str] = DATA) -> list[runs.Run]:
    """Train and probe each, then climb each ladder; after every piece what is shipped is copied to
    `checkpoints/zoo`.
    """
    configs = wanted(data)
    for config in configs:
        train(config)
    for config in configs:
        climb(config)
    known = {config.run_id for config in wanted()}
    for folder in filter(Path.is_dir, runs.zoo().iterdir()):
        if folder.name not in known:
            shutil.rmtree(folder)  # of settings that are not shipped any more
    return [runs.Run(runs.zoo() / config.run_id) for config in configs]


def train(config: TrainConfig) -> None:
    """Train and probe a network that is not there yet, and ship it."""
    if (runs.zoo() / config.run_id / "net.safetensors").exists():
        return
    run = runs.create(config, folder=_workshop())
    _say(run.id)
    worker.execute(run, functools.partial(_say, " "))
    for probe in (probes.accuracy_curve, probes.smallest_eps):
        _say(" ", probe(run).meta["summary"])
    _ship(run)


def climb(config: TrainConfig) -> None:
    """Climb the ladder of a trained network, as far as that is not done yet, and ship what
    it gave.
    """
    from robustviz.training.evaluate import ladder

    run = runs.Run(_workshop() / config.run_id)
    if not (run.path / "net.safetensors").exists():  # what is shipped is read-only
        shutil.copytree(runs.zoo() / config.run_id, run.path, dirs_exist_ok=True)
    _say(run.id)
    ladder(run, n=LADDER[config.data.key], say=functools.partial(_say, " "))
    _ship(run)


def _workshop() -> Path:
    return runs.home() / ".zoo-build"


def _ship(run: runs.Run) -> None:
    target = runs.zoo() / run.id
    for folder in ("probes", "snapshots"):
        if (run.path / folder).is_dir():
            shutil.copytree(run.path / folder, target / folder, dirs_exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copy2(run.path / name, target / name)


def main(data: list[str] | None = None) -> int:
    """Make the zoo, its table, the story that rests on it, and the hashes."""
    from robustviz.views.start import pack as story

    try:
        cli.main(["report", "--ladder", *(str(run.path) for run in make(data or DATA))])
        return story.main()
    except UserError as error:
        print(f"robustviz: {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
