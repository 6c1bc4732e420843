"""Make the first page's story: `python -m robustviz.views.start.pack`. Everything on that page is
computed here, by seed.
"""

import json

import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import figures, paths
from robustviz.attacks import PGD
from robustviz.data import Dataset
from robustviz.runs import folder
from robustviz.runs.files import write_file
from robustviz.runs.folder import Run
from robustviz.runs.naming import unusual
from robustviz.stats import wilson
from robustviz.training.evaluate import count_right
from robustviz.training.ladder import headline
from robustviz.types import JSON, UserError, eps_text
from robustviz.views.measure import images_of, net_of
from robustviz.views.transfer.probe import logits_of

FOLDER = paths.ROOT / "checkpoints" / "story"
SEED, ROUNDS, STEPS = 0, 3, 20
OTHER = {"left": "right", "right": "left"}


def shipped(data: str, method: str) -> Run:
    """The shipped Small ResNet of a method with its usual settings on a data set, seed 0. Raises
    UserError where there is none.
    """
    for run in folder.all_runs():
        if (
            run.shipped
            and (run.data_key, run.method_key) == (data, method)
            and run.architecture == "small_resnet"
            and run.info.get("seed") == 0
            and not unusual(run)  # as another budget
        ):
            return run
    raise UserError(f"There is no shipped {method} run on {data}: make it with `make zoo`.")


def tell() -> JSON:
    """Write the pictures and `story.json`; what the JSON holds."""
    runs = {"standard": shipped("shapes", "standard"), "robust": shipped("shapes", "pgd_at")}
    eps, split = runs["standard"].eps, images_of(runs["standard"])
    chance = torch.Generator().manual_seed(SEED)
    index = torch.randperm(len(split), generator=chance)[:ROUNDS]
    few, attack = split.take(index), PGD(eps=eps, steps=STEPS)
    attacked = {
        name: attack(net_of(run), few.x, few.y, rng=torch.Generator().manual_seed(SEED))
        for name, run in runs.items()
    }
    answers = {name: _answers(run, few, attacked[name]) for name, run in runs.items()}
    rounds = []
    for number, side in enumerate(
        "left" if bit else "right" for bit in torch.randint(2, (ROUNDS,), generator=chance).tolist()
    ):
        for name, image in {
            side: attacked["standard"][number],
            OTHER[side]: few.x[number],
            "robust": attacked["robust"][number],
        }.items():
            write_file(FOLDER / _file(number, name), figures.png(image.numpy(), 288))
        rounds.append(
            _round(number, int(index[number]), side, split.classes[int(few.y[number])])
            | {name: each[number] for name, each in answers.items()}
        )
    pack = {
        "command": "python -m robustviz.views.start.pack",
        "seed": SEED,
        "eps": eps,
        "eps_text": eps_text(eps),
        "eps_level": round(eps * 255),
        "attack": f"PGD-{STEPS}",
        "classes": list(split.classes),
        "rounds": rounds,
        **{name: _counts(run, split, attack) for name, run in runs.items()},
    }
    write_file(
        FOLDER / "story.json", f"{json.dumps(pack, indent=1, ensure_ascii=False)}\n".encode()
    )
    return pack


def _file(number: int, name: str) -> str:
    return f"round-{number + 1}-{name}.png"


def _round(number: int, index: int, side: str, true: str) -> JSON:
    """What a round shows: its class, the side that was tampered with, and its pictures."""
    return {
        "index": index,
        "class": true,
        "article": f"{'an' if true[0] in 'aeiou' else 'a'} {true}",
        "tampered": side,
        "left": _file(number, "left"),
        "right": _file(number, "right"),
        "tampered_picture": _file(number, side),
        "robust_picture": _file(number, "robust"),
    }


def _answers(run: Run, few: Dataset, x_adv: Tensor) -> list[JSON]:
    """What a network says of each image, untouched and attacked, and whether it was fooled."""
    clean, adv = (F.softmax(logits_of(net_of(run), x), 1).max(dim=1) for x in (few.x, x_adv))
    return [
        {
            "clean": few.classes[int(before)],
            "clean_p": round(float(sure), 4),
            "adv": few.classes[int(after)],
            "adv_p": round(float(sure_adv), 4),
            "fooled": int(after) != int(true),
        }
        for before, sure, after, sure_adv, true in zip(
            clean.indices, clean.values, adv.indices, adv.values, few.y, strict=True
        )
    ]


def _counts(run: Run, split: Dataset, attack: PGD) -> JSON:
    """What a network's evaluation found, and on how many images it was fooled. Raises UserError
    where these counts differ from what is found here.
    """
    evaluation = run.evaluation()
    if evaluation is None:
        raise UserError(f"{run.id} has no evaluation: run `make zoo`.")
    right = count_right(net_of(run), split.x, split.y)
    held = count_right(net_of(run), split.x, split.y, attack, SEED)
    if (int(right.sum()), int(held.sum())) != (evaluation.clean_k, evaluation.robust_k):
        raise UserError(
            f"{run.id} gives other figures here than its eval.json says: make it again with `make"
            " zoo`."
        )
    return {
        "run": run.id,
        "label": run.config.method.label,
        "n": evaluation.n,
        "clean_k": evaluation.clean_k,
        "robust_k": evaluation.robust_k,
        "fooled_k": int((right & ~held).sum()),
        "interval": wilson(evaluation.robust_k, evaluation.n),
        "worst": (worst := headline(run.evaluations(), run.eps)) and worst.to_json(),
    }


def main() -> int:
    """Make the pack and the hashes of everything shipped."""
    from robustviz.check import write_hashes

    pack = tell()
    write_hashes()
    net, other = pack["standard"], pack["robust"]
    print(
        f"story: ordinary network fooled on {net['fooled_k']} of {net['clean_k']}, {other['label']}"
        f" on {other['fooled_k']} of {other['clean_k']}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
