"""Make the shipped checkpoints: `python -m robustviz.zoo [DATA …]`.

Trains, evaluates, probes and attacks the networks in a work folder among the user's runs, and
copies what is shipped to `checkpoints`. Finished parts are kept, so after an interruption the same
command continues.
"""

import functools
import shutil
import sys
from collections.abc import Iterable

from robustviz import cli, probes
from robustviz.attacks import CW, Attack
from robustviz.claims import claim
from robustviz.cli import seeds
from robustviz.cli.sweep import Bar
from robustviz.data import load
from robustviz.runs import folder as runs, sweeps
from robustviz.runs.inside import OVER
from robustviz.training.config import TrainConfig
from robustviz.types import UserError

DATA = ("digits", "shapes")
# Data sets of real images. Their networks come from the claims: of each method one training seed,
# with the attacks of the ladder.
REAL = ("cifar10",)
REAL_METHODS = (
    "standard",
    "pgd_at",
    "trades",
    "part",
    "afa",
    "supcon_margin",
    "aalp",
    "model_alignment",
)
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
    "sip_at",
    "afa_trades",
)
# Networks with standard training, as targets of transferred attacks. No transformer on shapes:
# 2,000 images are too few for it (clean accuracy 0.62 with the data set's recipe).
OTHERS = {
    "digits": (("small_cnn", 0), ("small_resnet", 1), ("tiny_vit", 0)),
    "shapes": (("small_cnn", 0), ("small_resnet", 1), ("small_cnn", 1)),
}
# The number of training images of model alignment's witness, a small_cnn of seed 2. Trained on all
# images, the witness would classify each of them correctly: its hard labels would be the true
# labels, and the controls `witness_hard` and `label` would be the same network. With these numbers
# the witness classifies 92% of all training images correctly, on both data sets.
WITNESS = {"digits": 125, "shapes": 1200}
# Networks of seed 0 whose weights are also saved every second epoch, in half precision, for a film.
# AFA's network on shapes is left out. Trained again for the film, with the same seed on another
# processor, it became another network, on which PGD and AutoAttack differ less: .625 of the images
# right under PGD-100×5 and .580 under AutoAttack, instead of .635 and .565 for the shipped network.
FILMED = {
    "digits": ("standard", "pgd_at", "afa", "supcon_margin"),
    "shapes": ("standard", "pgd_at"),
}
# PGD-AT with other budgets: a quarter, half, 1½ and twice the data set's own ε.
BUDGETS = {"digits": (0.0375, 0.075, 0.225, 0.3), "shapes": (2 / 255, 4 / 255, 12 / 255, 16 / 255)}
SEEDS = (0, 1, 2)  # for every method and budget; only the weights of the first seed are shipped
# number of images for the attacks of the ladder, AutoAttack included
LADDER = {"digits": 360, "shapes": 200, "cifar10": 200}
# The weights are copied last: where they exist, the run is complete.
SHIPPED = ("config.json", "status.json", "metrics.jsonl", "eval.json", "net.safetensors")

_say = functools.partial(print, flush=True)


def wanted(data: Iterable[str] = DATA) -> list[TrainConfig]:
    """The configs of the trainings whose weights are shipped, for these data sets."""
    return [config for key in data for config in (_real if key in REAL else _shipped)(key)]


def evaluated(data: Iterable[str] = DATA) -> list[TrainConfig]:
    """The configs of the trainings whose evaluations are shipped, for these data sets: every method
    and budget, seed by seed. There are none for the data sets in `REAL`.
    """
    return [
        config for key in data if key in DATA for seed in SEEDS for config in _seeded(key, seed)
    ]


def _config(key: str, method: str, *sets: tuple[str, object], **flags: object) -> TrainConfig:
    return TrainConfig.make(None, {"data": key, "method": method, "device": "cpu"} | flags, sets)


def _seeded(key: str, seed: int) -> list[TrainConfig]:
    films = FILMED[key] if seed == SEEDS[0] else ()
    return [
        *(_config(key, method, seed=seed, snapshots=2 * (method in films)) for method in METHODS),
        *(_config(key, "pgd_at", seed=seed, eps=eps) for eps in BUDGETS[key]),
    ]


def _shipped(key: str) -> list[TrainConfig]:
    standard, *methods = _seeded(key, SEEDS[0])
    witness = _config(key, "standard", net="small_cnn", seed=2, n_train=WITNESS[key])
    return [
        standard,
        *(_config(key, "standard", net=net, seed=seed) for net, seed in OTHERS[key]),
        witness,
        *(
            _config(
                key,
                "model_alignment",
                ("method.source", standard.run_id),
                ("method.witness", witness.run_id),
                ("method.target", target),
            )
            for target in ("witness_soft", "witness_hard", "label")
        ),
        *methods,
    ]


def _real(key: str) -> list[TrainConfig]:
    """The configs of the trainings on real images whose networks are shipped. They are taken from
    the claims: for each of `REAL_METHODS` the training with the fewest settings of its own, with
    the first seed; before them the source and the witness of model alignment.
    """
    setup = next(each for each in claim.setups() if each.data == key)
    sides = claim.sides(claim.claims())
    chosen = [
        min((side for side in sides if side["method"] == method), key=len)
        for method in REAL_METHODS
    ]
    sources = [value for side in chosen for value in side.values() if isinstance(value, dict)]
    configs = [claim.config(setup, side, setup.seeds[0]) for side in (*sources, *chosen)]
    return list({config.run_id: config for config in configs}.values())


def make(data: Iterable[str] = DATA) -> list[runs.Run]:
    """Train, evaluate, probe and run the attack ladder (attacks of increasing strength) for
    everything that is not finished; each step copies its results to `checkpoints`. At the end,
    remove from `checkpoints` what is no longer shipped. Returns the shipped runs of these data
    sets. Raises UserError at the end, before the removal, if a training failed.

    To make something again, because a method now computes something else under the same name, first
    remove it from `checkpoints` and from the work folder `.zoo-build`.
    """
    data = list(data)
    shipped = {config.run_id: config for config in wanted(data)}
    seeded = {config.run_id: config for config in evaluated(data)}
    with runs.at_home_in(runs.home() / ".zoo-build"):
        for name in shipped:
            if (runs.zoo() / name / "net.safetensors").exists() and not _run(name).weights:
                shutil.copytree(runs.zoo() / name, _run(name).path, dirs_exist_ok=True)
        unseen = {name: seeded[name] for name in seeded if not seeds.file_of(name).exists()}
        bar = Bar("zoo")
        refused = sweeps.follow((shipped | unseen).values(), bar)
        bar.end()
        failed = [
            f"{name} ({refused.get(name) or _run(name).status()['error']})"
            for name in shipped | unseen
            if _run(name).status()["state"] not in OVER
        ]
        for step, names in ((_evaluate, unseen), (_probe, shipped), (_climb, shipped)):
            for name in names:
                if _run(name).status()["state"] in OVER:
                    step(_run(name))
    if failed:
        raise UserError(
            f"These trainings failed: {', '.join(failed)}. Run the same command to try again."
        )
    _tidy()
    return [runs.Run(runs.zoo() / name) for name in shipped]


def _run(name: str) -> runs.Run:
    return runs.Run(runs.home() / name)


def _evaluate(run: runs.Run) -> None:
    """Evaluate a run under CW-100, the margin attack of the ladder, on the whole test split, unless
    that was done already on the same images as PGD-20, with which the training ended. Then write
    both evaluations to the file in which the run's evaluations are shipped.
    """
    from robustviz.training.evaluate import evaluate

    whole = len(load(run.config.data, "test"))
    met = [
        {one.images for one in seeds.found(run.evaluations(), run.eps, attack) if one.n == whole}
        for attack in seeds.ATTACKS
    ]
    if met[0] & met[1]:
        _say(f"{run.id} is measured")
    else:
        _say(run.id, evaluate(run, CW(steps=100)).line)
    seeds.write(run)


def _probe(run: runs.Run) -> None:
    for probe in (probes.accuracy_curve, probes.smallest_eps):
        _say(run.id, probe(run).meta["summary"])
    _ship(run)


def _climb(run: runs.Run) -> None:
    """Evaluate a run under those attacks of the ladder that it has not been evaluated under, and
    ship the results.
    """
    from robustviz.training.evaluate import ladder

    _say(run.id)
    say = functools.partial(_say, " ")
    ladder(run, n=LADDER[run.data_key], say=say, rungs=rungs_of(run))
    _ship(run)


def rungs_of(run: runs.Run) -> tuple[Attack, ...]:
    """The attacks of the ladder for a shipped network. AutoAttack, the last one, takes ten minutes
    per network. It is left out for networks trained with one of `BUDGETS`, for those of model
    alignment, for the witnesses in `WITNESS`, and for SIP-AT, whose accuracy is low under PGD
    already.
    """
    from robustviz.training.evaluate import LADDER as RUNGS

    short = (
        run.eps in BUDGETS.get(run.data_key, ())
        or run.method_key in ("model_alignment", "sip_at")
        or run.info["n_train"] == WITNESS.get(run.data_key)
    )
    return RUNGS[:-1] if short else RUNGS


def _ship(run: runs.Run) -> None:
    target = runs.zoo() / run.id
    for folder in ("probes", "snapshots"):
        if (run.path / folder).is_dir():
            shutil.copytree(run.path / folder, target / folder, dirs_exist_ok=True)
    target.mkdir(parents=True, exist_ok=True)
    for name in SHIPPED:
        shutil.copy2(run.path / name, target / name)


def _tidy() -> None:
    """Remove from `checkpoints` the runs and evaluations that are no longer shipped."""
    known = {config.run_id for config in wanted((*DATA, *REAL))}
    for folder in runs.zoo().iterdir():
        if folder.is_dir() and folder.name not in known:
            shutil.rmtree(folder)
    known = {config.run_id for config in evaluated()}
    for file in seeds.FOLDER.glob("*.json"):
        if file.stem not in known:
            file.unlink()


def main(data: list[str] | None = None) -> int:
    """Make everything that is shipped: the networks of these data sets (None or empty: of `DATA`);
    then, made from the networks, the start page's story, the results for first screens and the
    catalogue of names; and the hashes. Prints the table of the networks' results. Returns the exit
    status.
    """
    from robustviz.views.start import pack as story

    try:
        cli.main(["report", "--ladder", *(str(run.path) for run in make(data or DATA))])
        return story.main()
    except UserError as error:
        print(f"robustviz: {error}", file=sys.stderr)
        return error.code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
