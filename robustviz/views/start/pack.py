"""`python -m robustviz.views.start.pack` measures what first screens show of the default pairs of
networks, and writes it to files that are shipped: the first page's story, all results that first
screens need for about a dozen images of each data set in `PAIRS` (read by `robustviz.views.pack`),
and the catalogue of names.

After an interrupted call, the next one reuses the results for first screens that are already in the
files; after a complete one, everything is measured anew.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from robustviz import figures, paths, registry
from robustviz.attacks import PGD
from robustviz.data import Dataset
from robustviz.imports import load
from robustviz.process import threads
from robustviz.runs import catalogue, folder
from robustviz.runs.files import write_file
from robustviz.runs.folder import Run
from robustviz.runs.naming import unusual
from robustviz.stats import tango, wilson
from robustviz.training.evaluate import count_right
from robustviz.training.ladder import headline
from robustviz.types import JSON, UserError, eps_text
from robustviz.ui import networks
from robustviz.views import modules, pictures
from robustviz.views.attack.result import AttackLevelsSpec
from robustviz.views.measure import images_of, net_of, probe_of
from robustviz.views.result import ProbeSpec

FOLDER = paths.ROOT / "checkpoints" / "story"
SEED, ROUNDS, STEPS = 0, 3, 20
OTHER = {"left": "right", "right": "left"}
PAIRS = ("shapes", "digits")
TELLING, BOTH = (8, 2)  # images at most: on which only A is fooled; both are, or neither is
UNFINISHED = ".unfinished"  # a file in `FOLDER` that exists until everything is measured


def shipped(data: str, method: str) -> Run:
    """The shipped Small ResNet of a method on a data set, with default settings and seed 0.
    Raises UserError if there is none.
    """
    for run in folder.all_runs():
        if (
            run.shipped
            and (run.data_key, run.method_key) == (data, method)
            and run.architecture == "small_resnet"
            and run.info.get("seed") == 0
            and not unusual(run)  # such as another ε
        ):
            return run
    raise UserError(f"There is no shipped {method} run on {data}: make it with `make zoo`.")


def tell() -> JSON:
    """Attack the pictures of the first page's story, and write them and `story.json` to `FOLDER`;
    returns the content of `story.json`.
    """
    runs = {"standard": shipped("shapes", "standard"), "robust": shipped("shapes", "pgd_at")}
    eps, split = runs["standard"].eps, images_of(runs["standard"])
    chance = torch.Generator().manual_seed(SEED)
    index = torch.randperm(len(split), generator=chance)[:ROUNDS]
    few = split.take(index)
    attacked = {
        name: [attack_page(run, int(each), eps) for each in index] for name, run in runs.items()
    }
    rounds = []
    for number, side in enumerate(
        "left" if bit else "right" for bit in torch.randint(2, (ROUNDS,), generator=chance).tolist()
    ):
        x, x_adv = few.x[number].numpy(), attacked["standard"][number][0]
        for name, image in {
            side: x_adv,
            OTHER[side]: x,
            "added": pictures.delta(x, x_adv, eps),
            "robust": attacked["robust"][number][0],
        }.items():
            write_file(FOLDER / _file(number, name), figures.png(image, 288))
        rounds.append(
            _round(number, int(index[number]), side, split.classes[int(few.y[number])])
            | {name: each[number][1] for name, each in attacked.items()}
        )
    pack = {
        "command": "python -m robustviz.views.start.pack",
        "seed": SEED,
        "eps": eps,
        "eps_text": eps_text(eps),
        "eps_level": round(eps * 255),
        "attack": f"PGD-{STEPS}",
        "shown": f"PGD-{AttackLevelsSpec().steps}",  # the attack on the pictures
        "classes": list(split.classes),
        "rounds": rounds,
        "gain": round(pictures.gain(eps)),
        **{name: _counts(run, split, PGD(eps=eps, steps=STEPS)) for name, run in runs.items()},
        "price": _price(runs["standard"], runs["robust"]),
        "part": shipped("shapes", "part").id,  # the network that the page links to
    }
    write_file(
        FOLDER / "story.json", f"{json.dumps(pack, indent=1, ensure_ascii=False)}\n".encode()
    )
    return pack


def _file(number: int, name: str) -> str:
    return f"round-{number + 1}-{name}.png"


def _round(number: int, index: int, side: str, true: str) -> JSON:
    """The facts on round `number` (from 0) of the story as a dict: the test image's `index` and
    class, the `side` of the attacked picture (`left` or `right`), and the names of the round's
    picture files. `true`: the name of the class.
    """
    return {
        "index": index,
        "class": true,
        "article": f"{'an' if true[0] in 'aeiou' else 'a'} {true}",
        "tampered": side,
        "left": _file(number, "left"),
        "right": _file(number, "right"),
        "tampered_picture": _file(number, side),
        "added_picture": _file(number, "added"),
        "robust_picture": _file(number, "robust"),
    }


def attack_page(run: Run, index: int, eps: float) -> tuple[np.ndarray, JSON]:
    """Attack the test image with this index, as the Attack page does with its default settings;
    `eps` is in pixel units.

    Returns the attacked image (C, H, W) in [0, 1], rounded to whole grey levels, and a dict:
    `clean`, `adv`: the name of the class predicted for the clean and the attacked image; `clean_p`,
    `adv_p`: the softmax output of the predicted class, rounded to four digits; `fooled`: whether
    the network misclassifies the attacked image.
    """
    spec = AttackLevelsSpec(index, eps=eps)
    with threads(1):  # the number of threads changes rounding errors in sums
        levels = probe_of(spec).answer(run, spec)
    one = levels.at(levels.levels.tolist().index(round(255 * eps)))
    classes = levels.meta["classes"]
    return one.x_adv, {
        "clean": classes[int(one.probs.argmax())],
        "clean_p": round(float(one.probs.max()), 4),
        "adv": classes[int(one.probs_adv.argmax())],
        "adv_p": round(float(one.probs_adv.max()), 4),
        "fooled": int(one.probs_adv.argmax()) != one.y,
    }


def _price(ordinary: Run, robust: Run) -> JSON:
    """How many clean test images only one of the two networks classifies correctly, as a dict.
    `gained`: only the robust one; `lost`: only the ordinary one; `interval`: the paired 95%
    interval of the difference in clean accuracy, robust minus ordinary, as fractions. Raises
    UserError if the two were not evaluated on the same images.
    """
    one, other = (run.evaluation() for run in (ordinary, robust))
    if one is None or other is None or one.images != other.images:
        raise UserError("The story's two networks were not evaluated on the same images.")
    before, after = one.right()[0], other.right()[0]
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    return {"gained": gained, "lost": lost, "interval": tango(gained, lost, one.n)}


def _counts(run: Run, split: Dataset, attack: PGD) -> JSON:
    """The facts on a network as a dict: its id and label, the counts of its evaluation, on how many
    of the images `split` that it classifies correctly the attack fools it (`fooled_k`), Wilson's
    interval of its robust accuracy, and the worst case over several attacks, or None. Raises
    UserError if the evaluation is missing, or if its counts are not reproduced here.
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


def story_images(a: Run, b: Run, y: np.ndarray) -> list[int]:
    """The indices of the test images to be shipped for networks `a` and `b`. First comes the image
    with which pages open (`networks.default_image`). Then come up to `TELLING` images on which the
    attack fools A but not B (the first image counts if it is one), up to `BOTH` on which it fools
    both, and up to `BOTH` on which it fools neither; each time from different classes as far as
    possible. Both networks classify all these correctly when clean, except perhaps the first image.
    `y`: the classes of all test images.
    """
    (clean, held), (clean_b, held_b) = networks.right(a.id), networks.right(b.id)
    first = networks.default_image(a.id, b.id)
    kinds = (
        (clean & ~held & clean_b & held_b, TELLING),
        (clean & ~held & clean_b & ~held_b, BOTH),
        (clean & held & clean_b & held_b, BOTH),
    )
    out = [first]
    for which, most in kinds:
        every = [int(index) for index in which.nonzero()[0] if int(index) != first]
        one = {int(y[index]): index for index in reversed(every)}
        fresh = [i for i in every if one[int(y[i])] == i and (most != TELLING or y[i] != y[first])]
        ordered = dict.fromkeys((*fresh, *every))
        out += list(ordered)[: most - (which[first] and most == TELLING)]
    return out


def specs(index: list[int], eps: float) -> Iterator[ProbeSpec[Any]]:
    """Yields all specs that the first screens of all views need for the test images with these
    indices, attacked at `eps` (pixel units), without duplicates.
    """
    screens = [vars(load(module)).get("first_screen") for module in modules("result")]
    yield from dict.fromkeys(
        spec for image in index for screen in screens if screen for spec in screen(image, eps)
    )


def measure_pair(data: str, again: bool) -> None:
    """Write a data set's story images, and the results of its default pair of networks for all
    first screens, to `FOLDER`. With `again`, results that are already in the files are reused
    instead of measured again. A result that a network cannot give is left out, and a line is
    printed that says why.
    """
    a, b = (folder.open_model(run_id) for run_id in networks.defaults(networks.on(data)))
    split = images_of(a)
    index = story_images(a, b, split.y.numpy())
    few = split.take(torch.tensor(index))
    levels = (few.x * 255).round().to(torch.uint8).numpy()
    written = io.BytesIO()
    np.savez_compressed(written, index=np.array(index), x=levels, y=few.y.numpy())
    write_file(FOLDER / f"{data}.npz", written.getvalue())
    for run in (a, b):
        file = FOLDER / f"{run.id}.zip"
        before = _unzipped(file.read_bytes()) if again and file.exists() else {}
        answers: dict[str, bytes] = {}
        for spec in specs(index, run.eps):
            name = f"{registry.key(spec)}.npz"
            try:
                answers[name] = before.get(name) or _measured(run, spec)
            except UserError as error:  # e.g. no object masks for an overlap with objects
                print(f"{run.id} {name}: left out. {error}", flush=True)
            write_file(file, _zipped(before | answers))
        write_file(file, _zipped(answers))


def _measured(run: Run, spec: ProbeSpec[Any]) -> bytes:
    with threads(1):  # the number of threads changes rounding errors in sums
        result = probe_of(spec).answer(run, spec)
    result.meta["weights"] = run.weights
    content: bytes = result.to_npz()
    print(f"{run.id} {spec.key} {len(content):,} bytes", flush=True)
    return content


def _zipped(files: dict[str, bytes]) -> bytes:
    """The bytes of a zip file with these files (content by name); equal files give equal bytes.
    The zip is not compressed, because the files in it already are.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as pack:
        for name, content in sorted(files.items()):
            pack.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def _unzipped(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as pack:
        return {name: pack.read(name) for name in pack.namelist()}


def write_catalogue() -> None:
    """Write the catalogue: the names and usual settings of all methods, data sets and
    architectures, and the number of test images of the data sets in `PAIRS`. With it, pages need no
    torch for these facts.
    """
    runs = [run for run in folder.all_runs() if run.shipped and run.data_key in PAIRS]
    found = catalogue.found({run.data_key: len(images_of(run)) for run in runs})
    text = json.dumps(found, indent=1, ensure_ascii=False)
    write_file(catalogue.FILE, f"{text}\n".encode())


def main() -> int:
    """Measure and write everything that the module's docstring lists, then the hashes of all
    shipped files; print a summary and return the exit code 0. It sets the environment variable
    ROBUSTVIZ_RUNS of this process to a temporary folder.
    """
    from robustviz.check import write_hashes

    again = (FOLDER / UNFINISHED).exists()
    write_file(FOLDER / UNFINISHED, b"")
    with tempfile.TemporaryDirectory() as nobodys:
        os.environ["ROBUSTVIZ_RUNS"] = nobodys  # an empty folder: no user's runs are included
        write_catalogue()
        story = tell()
        for data in PAIRS:
            measure_pair(data, again)
    (FOLDER / UNFINISHED).unlink()
    write_hashes()
    net, other = story["standard"], story["robust"]
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    print(
        f"story: ordinary network fooled on {net['fooled_k']} of {net['clean_k']}, {other['label']}"
        f" on {other['fooled_k']} of {other['clean_k']}; {size / 1e6:.1f} MB in all"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
