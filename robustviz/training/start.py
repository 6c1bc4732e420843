"""Starts a training from the weights of a run or of a file, as `TrainConfig.init` says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from robustviz import registry
from robustviz.methods.base import FindRun
from robustviz.runs.checkpoint import fitted, read
from robustviz.types import UserError

if TYPE_CHECKING:
    from torch import nn

    from robustviz.training.config import TrainConfig

MARKED = re.compile(r"(.+)#([0-9a-f]{12})")  # a name, and the hash of the weights meant
HEAD = {"head.weight", "head.bias"}


def resolved(config: TrainConfig, find_run: FindRun) -> str | None:
    """Returns `config.init` with the first 12 hex digits of a hash of the weights appended, as
    `RUN#1f…` or `/FILE#1f…`, because a run or a file may later hold other weights; None if `init`
    is empty. Raises UserError if there is no such run, if it has no weights, if they no longer
    match a hash in `init`, or if the method has its own setting for the starting run.
    """
    if not config.init:
        return None
    if own := registry.of_kind(type(config.method), "starting run"):
        raise UserError(
            f"{config.method.key} already starts from the run named in its setting {own[0]}: leave"
            " init out.",
            code=2,
        )
    marked = MARKED.fullmatch(config.init)
    name, meant = marked.groups() if marked else (config.init, "")
    if (path := Path(name).expanduser()).is_file():
        name, now = str(path.resolve()), hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    else:
        run = find_run(name)
        name, now = run.name, run.weights[:12]
    if not now:
        raise UserError(f"The run {name} has no trained weights yet: let it finish an epoch.")
    if meant and meant != now:
        raise UserError(
            f"The weights of {name} have changed since this training was created: restore them, or"
            " start a new training from it."
        )
    return f"{name}#{now}"


def start_from(net: nn.Module, config: TrainConfig, find_run: FindRun) -> None:
    """Load the weights that `config.init` names into the fresh `net`, including its normalisation.
    `config.init` must have the form that `resolved` returns. A head for another number of classes
    keeps its fresh weights. Raises UserError for weights of another network.
    """
    name, fresh = str(config.init).rpartition("#")[0], net.state_dict()
    state = read(name).state if Path(name).is_file() else find_run(name).net().state_dict()
    # where the head has another name, it is the last matrix with the same number of inputs
    heads = [fresh["head.weight"], *(each for each in state.values() if each.ndim == 2)]
    heads = [each for each in heads if each.shape[1:] == heads[0].shape[1:]]
    classes = state.get("head.weight", heads[-1]).shape[:1]
    own = {
        each: value.new_empty((*classes, *value.shape[1:])) if each in HEAD else value
        for each, value in fresh.items()
    }
    found = fitted(state, own, config.net, Path(name).name).state
    if any(found[each].shape != fresh[each].shape for each in HEAD & fresh.keys()):
        found |= {each: fresh[each] for each in HEAD & fresh.keys()}
    net.load_state_dict(found)
