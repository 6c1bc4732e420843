"""Make the first page's story: `python -m robustviz.views.start.pack`. Everything on that page is
computed here, by seed.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import torch.nn.functional as F

from robustviz import figures
from robustviz.attacks import PGD
from robustviz.nets import frozen
from robustviz.runs import folder
from robustviz.runs.folder import REPOSITORY, Run, write_file
from robustviz.stats import wilson
from robustviz.training.evaluate import count_right
from robustviz.types import UserError, eps_text
from robustviz.views.measure import images_of, net_of

FOLDER = REPOSITORY / "checkpoints" / "story"
SEED, ROUNDS, STEPS = 0, 3, 20


def shipped(data: str, method: str) -> Run:
    """The shipped Small ResNet of a method on a data set, seed 0. Raises UserError where there is
    none.
    """
    for run in folder.all_runs():
        ours = run.shipped and run.data_key == data and run.method_key == method
        if ours and run.architecture == "small_resnet" and run.info.get("seed") == 0:
            return run
    raise UserError(f"There is no shipped {method} run on {data}: make it with `make zoo`.")


def tell() -> dict[str, Any]:
    """Write the pictures and `story.json`; what the JSON holds."""
    ordinary, robust = shipped("shapes", "standard"), shipped("shapes", "pgd_at")
    eps, split = ordinary.eps, images_of(ordinary)
    chance = torch.Generator().manual_seed(SEED)
    index = torch.randperm(len(split), generator=chance)[:ROUNDS]
    sides = [
        "left" if bit else "right" for bit in torch.randint(2, (ROUNDS,), generator=chance).tolist()
    ]
    few = split.take(index)
    attack = PGD(eps=eps, steps=STEPS)
    said: dict[str, Any] = {}
    images = {}
    for name, run in (("standard", ordinary), ("robust", robust)):
        net = net_of(run)
        images[name] = attack(net, few.x, few.y, rng=torch.Generator().manual_seed(SEED))
        with frozen(net), torch.no_grad():
            said[name] = [F.softmax(net(x), 1) for x in (few.x, images[name])]
    rounds = []
    for number in range(ROUNDS):
        true, side = split.classes[int(few.y[number])], sides[number]
        other = "right" if side == "left" else "left"
        files = {
            side: images["standard"][number],
            other: few.x[number],
            "robust": images["robust"][number],
        }
        for name, image in files.items():
            write_file(FOLDER / f"round-{number + 1}-{name}.png", figures.png(image.numpy(), 288))
        one: dict[str, Any] = {
            "index": int(index[number]),
            "class": true,
            "article": f"{'an' if true[0] in 'aeiou' else 'a'} {true}",
            "tampered": side,
            "left": f"round-{number + 1}-left.png",
            "right": f"round-{number + 1}-right.png",
            "tampered_picture": f"round-{number + 1}-{side}.png",
            "robust_picture": f"round-{number + 1}-robust.png",
        }
        for name in ("standard", "robust"):
            clean, adv = (probs[number] for probs in said[name])
            one[name] = {
                "clean": split.classes[int(clean.argmax())],
                "clean_p": round(float(clean.max()), 4),
                "adv": split.classes[int(adv.argmax())],
                "adv_p": round(float(adv.max()), 4),
                "fooled": split.classes[int(adv.argmax())] != true,
            }
        rounds.append(one)
    pack: dict[str, Any] = {
        "command": "python -m robustviz.views.start.pack",
        "seed": SEED,
        "eps": eps,
        "eps_text": eps_text(eps),
        "eps_level": round(eps * 255),
        "attack": f"PGD-{STEPS}",
        "classes": list(split.classes),
        "rounds": rounds,
    }
    for name, run in (("standard", ordinary), ("robust", robust)):
        found = run.evaluation()
        if found is None:
            raise UserError(f"{run.id} has no evaluation: run `make zoo`.")
        net = net_of(run)
        right, held = (
            count_right(net, split.x, split.y),
            count_right(net, split.x, split.y, attack, SEED),
        )
        if (int(right.sum()), int(held.sum())) != (found.clean_k, found.robust_k):
            raise UserError(
                f"{run.id} gives other figures here than its eval.json says: make it again with"
                " `make zoo`."
            )
        pack[name] = {
            "run": run.id,
            "label": run.config.method.label,
            "n": found.n,
            "clean_k": found.clean_k,
            "robust_k": found.robust_k,
            "fooled_k": int((right & ~held).sum()),
            "interval": wilson(found.robust_k, found.n),
        }
    write_file(
        FOLDER / "story.json", (json.dumps(pack, indent=1, ensure_ascii=False) + "\n").encode()
    )
    return pack


def main() -> int:
    """Make the pack and the hashes of everything shipped."""
    from robustviz.check import write_hashes

    pack = tell()
    write_hashes()
    net = pack["standard"]
    other = pack["robust"]
    print(
        f"story: ordinary network fooled on {net['fooled_k']} of {net['clean_k']}, {other['label']}"
        f" on {other['fooled_k']} of {other['clean_k']}"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
