"""The command `import`: make a run of a network that was trained elsewhere."""

import argparse
import json
from functools import partial

from robustviz.cli.terminal import DEVICE, Command, about, number, say, show
from robustviz.types import UserError


def do(args: argparse.Namespace) -> int:
    """Import the network that the arguments name as a run, and show what was found out about it.
    Returns the exit status 0. Raises UserError if both `--net` and `--model` are given, and as
    `import_run` does.
    """
    from robustviz.runs.imported import import_run

    if args.net and args.model:
        raise UserError(
            "--net names a known network and --model your own function: give only one of them.",
            code=2,
        )
    run = import_run(
        args.weights,
        data=args.data,
        name=args.name,
        label=args.label,
        model=args.net or args.model,
        classes=args.classes,
        entry=args.entry,
        maps=args.maps,
        features=args.features,
        head=args.head,
        logits=int(args.logits) if (args.logits or "").isdecimal() else args.logits,
        mean=args.mean,
        std=args.std,
        size=args.size,
        grid=args.grid,
        reading=args.reading,
        eps=args.eps,
        n=args.n,
        device=args.device,
        say=partial(say) if args.json else partial(print, flush=True),
    )
    network = dict(run.info.get("network", {}))
    text = (
        f"{run.id} is imported; measure it with: python -m robustviz evaluate {run.id}"
        if run.evaluation() is None
        else f"{run.id} is imported."
    )
    return show(args, {"run": str(run.path)} | about(run) | {"label": run.label} | network, text)


def numbers(text: str) -> list[float]:
    """An argparse type: the numbers in a text such as `0.49,0.48,0.45` or `125/255,…`."""
    return [number(each) for each in text.split(",") if each.strip()]


def sides(text: str) -> list[int]:
    """An argparse type: the numbers of rows and columns in a text such as `14x14`."""
    try:
        return [int(each) for each in text.lower().split("x")]
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"ROWSxCOLUMNS is meant, and {text!r} is not that"
        ) from None


def names(text: str) -> list[str]:
    """An argparse type: the names in a text that separates them by commas or is a JSON list of
    them.
    """
    if text.strip().startswith("["):
        try:
            return [str(each) for each in json.loads(text)]
        except ValueError:
            raise argparse.ArgumentTypeError("a JSON list of names is meant") from None
    return [each.strip() for each in text.split(",")]


COMMANDS = (
    Command(
        "import",
        do,
        "make a run of a network that was trained elsewhere",
        {
            "--weights": {
                "required": True,
                "metavar": "FILE",
                "help": "safetensors, or what torch.save wrote of a state_dict, also nested",
            },
            "--data": {"required": True, "help": "the data set to use with it, see `list data`"},
            "--net": {
                "default": "",
                "metavar": "NET",
                "help": "resnet18, torchvision:NAME, timm:NAME (default: what the weights fit)",
            },
            "--model": {
                "default": "",
                "metavar": "FILE.py:make",
                "help": "your own function that makes the network, or pkg.mod:make; its code is"
                " run, now and later",
            },
            "--name": {"default": "", "metavar": "ID", "help": "the run's id"},
            "--label": {"default": "", "help": "what pages and tables call it"},
            "--classes": {"type": names, "metavar": "A,B,…", "help": "in the order of its logits"},
            "--entry": {"default": "", "help": "which of several weights in the file, like ema"},
            "--reading": {
                "default": "",
                "help": "how its inputs are normalised: raw, cifar, imagenet, half, 0-255, mnist,"
                " bgr, bgr-imagenet, … (default: the one with the best test accuracy)",
            },
            "--mean": {"type": numbers, "metavar": "R,G,B", "help": "instead of --reading"},
            "--std": {"type": numbers, "metavar": "R,G,B"},
            "--size": {"type": int, "help": "pixels of a side to which images are resized inside"},
            "--maps": {"metavar": "LAYER", "help": "the layer of feature maps (default: found)"},
            "--features": {"metavar": "LAYER", "help": "the layer of features (default: found)"},
            "--head": {"metavar": "LAYER", "help": "the last layer (default: found)"},
            "--logits": {"help": "where the logits are if the output is not a tensor"},
            "--grid": {"type": sides, "metavar": "HxW", "help": "rows and columns of its tokens"},
            "--eps": {"type": number, "help": "radius of its attacks (default: the data's)"},
            "--n": {"type": int, "default": 500, "help": "test images for choosing --reading"},
            "--device": {**DEVICE, "default": "auto"},
        },
    ),
)
