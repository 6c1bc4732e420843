"""Imports networks that were trained elsewhere as runs: their weights, the code or library that
makes their module, and the data on which they are evaluated. Nothing is trained, and no weights are
downloaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save

from robustviz import data as rooms, plugins
from robustviz.data import Dataset, Source
from robustviz.inputs import all_logits
from robustviz.methods import Imported
from robustviz.nets import known
from robustviz.nets.attackable import device_of
from robustviz.nets.base import Classifier, frozen
from robustviz.nets.wrapped import Wrapped
from robustviz.runs import readings
from robustviz.runs.entries import UNKNOWN
from robustviz.runs.files import cannot_write, to_bytes, write_file
from robustviz.runs.folder import ID, Run, home, versions
from robustviz.runs.origin import Found, Net, Say, Shape, found_in, looked_into
from robustviz.runs.readings import Reading, Verdict
from robustviz.training.config import TrainConfig, pick_device
from robustviz.types import JSON, UserError, harmless

N = 500  # test images on which ways to read images are compared
# The only settings of a training that an imported run has.
OURS = ("data", "method", "net", "eps", "seed", "device", "threads")


def import_run(
    net: Net,
    *,
    data: str | Source,
    name: str = "",
    label: str = "",
    model: str = "",
    classes: Sequence[str] | None = None,
    entry: str = "",
    maps: str | None = None,
    features: str | None = None,
    head: str | None = None,
    logits: str | int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size: int | None = None,
    grid: Sequence[int] | None = None,
    reading: str = "",
    eps: float | None = None,
    n: int = N,
    device: str = "auto",
    say: Say = lambda line: None,
) -> Run:
    """Import a network trained elsewhere as a run, state `imported`, for all pages and probes.

    `net`: a module with its weights, the weights, or their file (`checkpoint.read`; `entry` chooses
    one of several sets of weights in the file). `model`: what makes the module again: `resnet18` (a
    network of robustviz), `torchvision:…`, `timm:…`, `FILE.py:make` or `pkg.mod:make`. It may be
    empty for modules of these libraries and for weights of their usual networks (not timm's). Code
    named here is trusted from now on. `data`: the images for evaluations; `classes`: names in the
    order of the logits, None: the data's. `name`: the run's id; `label`: its display name.

    `maps` to `grid` as in `nets.wrap`. `reading`: how the network expects its images, see
    `readings.named`. If neither this nor `mean` or `std` is given or stored with the network, the
    usual ways are tried on the first `n` test images of a seed-0 stratified permutation, and the
    best is used. `eps`: the radius of attacks on the run, None: the data's default. `device`: where
    the network is tried. `say` is called with each line about what was found. A run with the
    default id that exists already is returned unchanged. Raises UserError if a run called `name`
    exists and if anything does not fit; then nothing is left on disk.
    """
    source = (rooms.source(data) if isinstance(data, str) else data).placed()
    if name:
        _check_name(name)
    config = TrainConfig(data=source, method=Imported(), net="imported", eps=eps)
    split = rooms.load(source, "test")
    shape = len(split.classes), split.images.shape[1], split.images.shape[-1]
    found = found_in(net, model, entry, shape, say)
    asked = dict(maps=maps, features=features, head=head, logits=logits, grid=grid, size=size)
    found.told |= {key: value for key, value in asked.items() if value is not None}
    ours = looked_into(found, shape, say, source.called).eval().to(pick_device(device))
    few = split.take(n)
    _check(ours, few, classes)
    verdict = _read(ours, few, reading, *((mean, std) if mean or std else (found.mean, found.std)))
    say(f"{split.card} The network's outputs are taken for {_few(classes or split.classes)}.")
    _tell(verdict, say)
    ours = _with(ours.cpu(), found, verdict.reading, shape)
    names = tuple(map(harmless, classes or split.classes))
    images = {"classes": shape[0], "channels": shape[1], "size": shape[2], "names": names}
    more = {"images": images} | ({"label": harmless(label)} if label else {})
    return _kept(ours, found, config, verdict, more, name)


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(harmless, names[:9])) + ", …" * (len(names) > 9) + ", in this order"


def _tell(verdict: readings.Verdict, say: Say) -> None:
    advice = (
        " No others were tried. If you know yours, give mean and std, or reading (on the command"
        " line --mean and --std, or --reading)."
        if len(verdict.right) > 1
        else " That is less than half: do mean, std and the order of the classes fit?"
        if 2 * sum(verdict.right.values()) < verdict.n
        else ""
    )
    for line in (*(verdict.lines if len(verdict.right) > 1 else ()), verdict.text + advice):
        say(line)


def _check_name(name: str) -> None:
    """Raises UserError if `name` is not a valid run id, or is the id of an existing run."""
    if not ID.fullmatch(name):
        raise UserError(f"{name!r} is no run id: use 1 to 64 of a-z, 0-9 and '-'.", code=2)
    if (home() / name).exists():
        raise UserError(
            f"A run named {name} exists: choose another name, or remove it first (python -m"
            f" robustviz remove {name}).",
            code=2,
        )


def _check(net: Classifier, few: Dataset, classes: Sequence[str] | None) -> None:
    """Raises UserError if the network and the data have different numbers of classes, if `classes`
    has another length or one of the data's names at another position, or if the network does not
    give the same logits for the same images twice.
    """
    x = few.x[:2].to(device_of(net))
    with frozen(net), torch.no_grad():
        first, again = all_logits(net, x), all_logits(net, x)
    if not torch.allclose(first, again, rtol=1e-4, atol=1e-5):
        raise UserError(
            "This network gives different outputs for the same images in eval mode, so it cannot be"
            " evaluated: remove the randomness from its forward."
        )
    count = first.shape[1]
    if count != len(few.classes):
        raise UserError(
            f"This network has {count:,} classes, but {few.key} has {len(few.classes):,}: choose"
            " data with the same classes, in the order of its logits."
        )
    if classes is None:
        return
    if len(classes) != count:
        raise UserError(
            f"classes names {len(classes)} classes, and the network has {count}.", code=2
        )
    theirs, ours = ([str(one).casefold() for one in names] for names in (classes, few.classes))
    if any(one in ours and one != own for one, own in zip(theirs, ours, strict=True)):
        raise UserError(
            f"Its classes are in another order than the data's ({', '.join(few.classes[:4])}, …):"
            " change the code that makes it, so that its logits are in that order."
        )


def _read(
    net: Classifier,
    few: Dataset,
    reading: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Verdict:
    """Returns the verdict on how the network expects its images: as `reading` says, else with
    `mean` and `std`, else with the network's own normalisation, else in the likeliest of the usual
    ways (`readings.likely`).
    """
    channels = few.images.shape[1]
    if reading:
        one = readings.named(reading, channels)
    elif mean or std:
        one = _given(mean, std, channels)
    elif not isinstance(net, Wrapped) and not _plain(net):
        layer = readings.normalise_of(net)
        one = _given(layer.mean.flatten().tolist(), layer.std.flatten().tolist(), channels)
    else:
        return readings.likely(net, few.x, few.y, len(few.classes))
    return readings.as_given(net, few.x, few.y, one)


def _plain(net: Classifier) -> bool:
    """Whether the network's normalisation leaves its input unchanged."""
    layer = readings.normalise_of(net)
    return bool((layer.mean == 0).all() and (layer.std == 1).all())


def _given(mean: Sequence[float] | None, std: Sequence[float] | None, channels: int) -> Reading:
    for name, values in (("mean", mean), ("std", std)):
        if values and len(values) not in (1, channels):
            raise UserError(
                f"{name} has {len(values)} numbers and the images have {channels} channels: give"
                " one a channel.",
                code=2,
            )
    if std and not all(value > 0 for value in std):
        raise UserError(f"std={list(std)} is not valid: all numbers must be above 0.", code=2)
    own = [
        tuple(map(float, values)) * (channels if len(values) == 1 else 1) if values else None
        for values in (mean, std)
    ]
    return Reading(f"as given{', std 1' * (not std)}{', mean 0' * (not mean)}", own[0], own[1])


def _with(net: Classifier, found: Found, reading: Reading, shape: Shape) -> Classifier:
    """Returns the network, changed to read images as `reading` says: in place, or wrapped anew to
    flip the channels. How it is wrapped is added to `found.told`, for config.json.
    """
    if not reading.flip:
        readings.set_reading(net, reading)
        if isinstance(net, Wrapped):
            found.told |= net.description()
        return net
    names = ("maps", "features", "head")
    own = (
        found.told
        if isinstance(net, Wrapped)
        else {"maps": "maps", "features": "pool", "head": "head"}
    )
    found.told |= {name: f"net.{own[name]}" if own.get(name) else "" for name in names}
    found.told |= {"flip": True, "mean": reading.mean, "std": reading.std}
    found.told.setdefault("shape", (shape[1], shape[2], shape[2]))
    made = known.looked_into(found.module, found.told)
    assert isinstance(made, Wrapped)
    found.told |= made.description()
    return made.eval()


def _kept(
    net: Classifier, found: Found, config: TrainConfig, verdict: Verdict, more: JSON, name: str
) -> Run:
    """Write the run folder of an imported network, and return its run.

    The folder is written under another name and then renamed, so that no incomplete one is ever
    seen. If the run exists already, it is returned and left as it is. `more`: further entries of
    config.json. `name`: the run's id; empty: the default one. If the run is new and user code makes
    its network, that code is trusted from now on.
    """
    weights = save({key: value.detach().contiguous() for key, value in net.state_dict().items()})
    network: JSON = {
        "source": found.source,
        **found.told,
        "reading": verdict.reading.name,
        "readings": {"n": verdict.n, "right": verdict.right, "clear": verdict.clear},
    }
    asked = {key: value for key, value in config.to_json().items() if key in OURS}
    info = {**asked, "versions": versions(), "network": network, **more}
    if code := [*plugins.needed(config), *found.plugins]:
        info["plugins"] = code
    run = Run(home() / (name or _name(config, found.source, weights, network)))
    if run.path.exists():  # only under the default name, which has a hash of the content
        return run
    aside = home() / f".import-{os.getpid()}-{run.id}"
    try:
        write_file(aside / "net.safetensors", weights)
        write_file(
            aside / "status.json", to_bytes(UNKNOWN | {"state": "imported", "queued": time.time()})
        )
        write_file(aside / "config.json", to_bytes(info))
        os.rename(aside, run.path)
    except OSError as error:
        raise cannot_write(run.path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    for each in found.plugins:
        plugins.trust(str(each["source"]))
    return run


def _name(config: TrainConfig, source: str, weights: bytes, network: JSON) -> str:
    """Returns the default id: `<data>-imported-<net>-<8 hex digits of a hash of the weights and of
    how they are used>`.
    """
    digest = hashlib.sha256(weights + json.dumps(network, sort_keys=True).encode()).hexdigest()[:8]
    place, _, last = source.rpartition(":")
    net = last if place in known.ROOMS else f"{Path(place).stem}-{last}"
    plain = re.sub(r"[^a-z0-9]+", "-", f"{config.data.called}-imported-{net}".lower()).strip("-")
    return f"{plain[:55].rstrip('-')}-{digest}"
