"""Weights from other people's files: reads a file without running any code in it, and fits its
weights to a network, however its author nested and named them.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor

from robustviz.runs.weights import MOST_HEADER
from robustviz.types import UserError, harmless

Shapes = Mapping[str, tuple[int, ...]]

# Names under which authors store weights in a file with other things; the first that is there is
# used.
ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "ema_state_dict",
    "state_dict_ema",
    "model_ema",
)
# Prefixes of names that come from a wrapper: DataParallel, torch.compile, a class around the net.
WRAPPED = ("module", "_orig_mod", "model", "net", "network", "0", "1")
DEEPEST = 4  # levels of nesting that are searched
SAID = 3  # names in a sentence
_SCALE = re.compile(r"(?:^|\.)(mean|mu|std|sigma)$")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights in a file, by name (`state`); the dotted path in the file of the `entry` that
    holds them ("" for the top level); and the paths of the `others` that hold weights, too.
    """

    state: dict[str, Tensor]
    entry: str = ""
    others: tuple[str, ...] = ()


def read(path: str | os.PathLike[str], entry: str = "") -> Checkpoint:
    """Returns the weights in a safetensors file or a file written by `torch.save`, on the CPU, in
    their own dtypes. `entry`: if the file holds several sets of weights, the dotted path there of
    the one to take; empty: the likeliest. Raises UserError for other files, for files that would
    run code, and for files without weights or without that entry.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).") from error
    held = _safetensors(path) if start[8:9] == b"{" else _torch(path, start)
    found = dict(_states(held))
    if not found:
        raise UserError(
            f"{path.name} holds no weights: a dictionary of tensors is needed, as"
            " torch.save(net.state_dict(), FILE) writes it."
        )
    if entry and entry not in found:
        raise UserError(
            f"{path.name} has no weights under {harmless(entry)!r}, but under"
            f" {_some(name or 'the top' for name in found)}.",
            code=2,
        )
    chosen = entry or next(iter(found))
    return Checkpoint(
        found[chosen], harmless(chosen), tuple(harmless(name) for name in found if name != chosen)
    )


def _safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with open(path, "rb") as file:
            if int.from_bytes(file.read(8), "little") > MOST_HEADER:
                raise ValueError
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(
            f"{path.name} is damaged, or no safetensors file: fetch or save it anew."
        ) from error


def _torch(path: Path, start: bytes) -> object:
    """Returns the content of a file written by `torch.save`: a zip, or in old files a pickle.
    Raises UserError if it is neither, is damaged, or could run code. `start`: its first bytes.
    """
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        raise UserError(
            f"{path.name} is not a file of weights: use a safetensors file or one written by"
            " torch.save."
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if any(name.endswith("/constants.pkl") for name in parts.namelist()):
                    raise UserError(_refused(path, "GLOBAL TorchScript"))
        return torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # a damaged zip or pickle raises many kinds of errors
        if "weights_only" in str(error):
            raise UserError(_refused(path, str(error))) from error
        raise UserError(
            f"{path.name} is damaged, or no file of weights: fetch or save it anew."
        ) from error


def _refused(path: Path, why: str) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", why) or re.search(r"(\w+(?:\.\w+)+) was not", why)
    return (
        f"{path.name} holds more than weights"
        + (f" ({harmless(named[1])})" if named else "")
        + "; opening that could run code, so it is not opened. Where you trust it, save its weights"
        " alone: torch.save(net.state_dict(), FILE)."
    )


def _is_state(held: object) -> TypeGuard[dict[str, Tensor]]:
    """Whether `held` is a dictionary, with text as keys, that holds at least two tensors. Other
    values, such as counters, are allowed if there are fewer of them than tensors.
    """
    if not isinstance(held, Mapping) or not all(isinstance(name, str) for name in held):
        return False
    tensors = [value for value in held.values() if isinstance(value, Tensor)]
    return len(tensors) > 1 and 2 * len(tensors) > len(held)


def _states(
    held: object, where: str = "", depth: int = 0
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (dotted path, weights) for the dictionaries of weights in a file's content, the
    likeliest first. Four levels are searched, without entries of optimisers, and of a list the
    first eight items.
    """
    if _is_state(held):
        yield where, {name: value for name, value in held.items() if isinstance(value, Tensor)}
    elif depth < DEEPEST and isinstance(held, Mapping):
        order = {name: at for at, name in enumerate(ENTRIES)}
        names = [name for name in held if isinstance(name, str) and "optim" not in name.lower()]
        for name in sorted(names, key=lambda one: order.get(one.lower(), len(order))):
            yield from _states(held[name], f"{where}.{name}".lstrip("."), depth + 1)
    elif depth < DEEPEST and isinstance(held, (list, tuple)):
        for at, each in enumerate(held[:8]):
            yield from _states(each, f"{where}.{at}".lstrip("."), depth + 1)


# Translation of layer names from the repositories of PART, TRADES, MART and RobustBench. Each entry
# is the beginning of a name there, and its name here.
_INSIDE = {
    "bn1": "before.0",
    "conv1": "body.0",
    "bn2": "body.1",
    "conv2": "body.3",
    "shortcut.0": "shortcut",
    "convShortcut": "shortcut",
}
_HEAD = (r"(?:linear|fc)\.", "head.")
_STEM = (r"conv1\.", "maps.1.")
_NAMES: dict[str, tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = {
    "resnet18": (
        _STEM,
        (r"bn1\.", "maps.2."),
        (
            r"layer(\d)\.(\d)\.(?:shortcut|downsample)\.",
            lambda at: f"maps.{int(at[1]) + 3}.{at[2]}.downsample.",
        ),
        (r"layer(\d)\.", lambda at: f"maps.{int(at[1]) + 3}."),
        _HEAD,
    ),
    "preact_resnet18": (
        _STEM,
        (
            r"layer(\d)\.(\d)\.(bn1|conv1|bn2|conv2|shortcut\.0)\.",
            lambda at: f"maps.{int(at[1]) + 1}.{at[2]}.{_INSIDE[at[3]]}.",
        ),
        (r"bn\.", "maps.6."),
        _HEAD,
    ),
    "wrn_34_10": (
        _STEM,
        (
            r"block(\d)\.layer\.(\d)\.(bn1|conv1|bn2|conv2|convShortcut)\.",
            lambda at: f"maps.{int(at[1]) + 1}.{at[2]}.{_INSIDE[at[3]]}.",
        ),
        (r"bn1\.", "maps.5."),
        _HEAD,
    ),
}
_UNUSED = "sub_block1."  # in TRADES' Wide-ResNet: created and saved, but never used


@dataclass(frozen=True, eq=False)
class Fitted:
    """Weights under the names that a network uses (`state`), and the mean and standard deviation
    per channel with which images in [0, 1] are normalised, if they came with the weights (else
    None).
    """

    state: dict[str, Tensor]
    mean: list[float] | None = None
    std: list[float] | None = None


def fitted(state: Mapping[str, Tensor], own: Mapping[str, Tensor], net: str, file: str) -> Fitted:
    """Returns `state`, floats as float32, renamed to match `own`, the weights of a fresh network
    called `net`: wrappers' prefixes are removed and other repositories' names translated. Entries
    that are not learned (batch counters, the normalisation) come from `own` if `state` lacks them.
    Raises UserError that says what differs, or which values are not finite, and calls the weights
    `file`.
    """
    shapes = {name: tuple(value.shape) for name, value in own.items()}
    scale = {name: value for name, value in state.items() if _scales(name, value)}
    rest = {name: value for name, value in state.items() if name not in scale}
    every = [(given, scale if given is rest else {}) for given in (state, rest)]
    best, taken = min(
        (
            (_Apart.of(each, shapes), out)
            for given, out in every
            for each in _renamed(given, net.rpartition(":")[2])
        ),
        key=lambda found: found[0].count,
    )
    if best.count:
        raise UserError(best.sentence(net, file))
    found = {name: best.state.get(name, value) for name, value in own.items()}
    if broken := [
        name
        for name, value in best.state.items()
        if value.is_floating_point() and not value.isfinite().all()
    ]:
        raise UserError(f"{file} is damaged: in {_some(broken)} some values are no numbers.")
    return Fitted(
        {
            name: value.float() if value.is_floating_point() else value
            for name, value in found.items()
        },
        *_mean_and_std(taken),
    )


def _scales(name: str, value: Tensor) -> bool:
    """Whether a tensor is, by its name and size, a mean or standard deviation of images."""
    return bool(_SCALE.search(name)) and value.numel() in (1, 3, 4)


def _mean_and_std(scale: Mapping[str, Tensor]) -> tuple[list[float] | None, list[float] | None]:
    """Returns the mean and standard deviation among these tensors, per channel, for pixels in [0,
    1]; (None, None) unless both are there and of equal length.
    """
    last = {name.rpartition(".")[2]: value.flatten().tolist() for name, value in scale.items()}
    mean, std = last.get("mean", last.get("mu")), last.get("std", last.get("sigma"))
    if not mean or not std or len(mean) != len(std):
        return None, None
    unit = 255 if max(std) > 2 else 1  # some files give grey levels
    return [value / unit for value in mean], [value / unit for value in std]


def _renamed(state: Mapping[str, Tensor], net: str) -> Iterator[dict[str, Tensor]]:
    """Yield the weights under every set of names that may match the network: unchanged, with the
    wrappers' prefixes removed one after the other, and each of these also translated from other
    repositories' names for this `net`.
    """
    named = dict(state)
    while True:
        yield named
        if net in _NAMES:
            yield {
                _translated(name, _NAMES[net]): value
                for name, value in named.items()
                if not name.startswith(_UNUSED)
            }
        first = {name.partition(".")[0] for name in named}
        if len(first) != 1 or not first & {*WRAPPED} or not all("." in name for name in named):
            return
        named = {name.partition(".")[2]: value for name, value in named.items()}


def _translated(
    name: str, rules: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]
) -> str:
    for pattern, ours in rules:
        new, hits = re.subn(f"^{pattern}", ours, name)
        if hits:
            return new
    return name


@dataclass(frozen=True, eq=False)
class _Apart:
    """How the weights `state` differ from what a network needs: names that the network does not
    have (`strange`), names that the weights lack (`missing`), and by name the tensors of another
    shape, as (their shape, the needed one) (`shapes`).
    """

    state: dict[str, Tensor]
    strange: list[str]
    missing: list[str]
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    @classmethod
    def of(cls, state: dict[str, Tensor], wanted: Shapes) -> _Apart:
        return cls(
            state,
            [name for name in state if name not in wanted],
            [name for name in wanted if name not in state and not _learns_nothing(name, wanted)],
            {
                name: (tuple(value.shape), wanted[name])
                for name, value in state.items()
                if name in wanted and tuple(value.shape) != wanted[name]
            },
        )

    @property
    def count(self) -> int:
        return len(self.strange) + len(self.missing) + len(self.shapes)

    def sentence(self, net: str, file: str) -> str:
        """Returns the differences as a sentence."""
        if self.shapes and not self.strange and not self.missing and self._only_classes():
            there, here = next(iter(self.shapes.values()))
            return (
                f"{file} has {there[0]:,} classes, but {here[0]:,} are needed: choose data with the"
                " same number of classes."
            )
        differs = (
            (self.strange, "in the file, but not in the network: {} ({})"),
            (self.missing, "in the network, but not in the file: {} ({})"),
            (
                [
                    f"{name} is {_by(there)} in the file and {_by(here)} in the network"
                    + (
                        f": the file's network takes {'RGB' if here[1] == 1 else 'grey'} images,"
                        f" this one takes {'grey' if here[1] == 1 else 'RGB'}"
                        if len(there) == 4 and {there[1], here[1]} == {1, 3}
                        else ""
                    )
                    for name, (there, here) in self.shapes.items()
                ],
                "of another shape: {} ({})",
            ),
        )
        said = [text.format(len(names), _some(names)) for names, text in differs if names]
        return f"The weights in {file} do not fit {net}: {'; '.join(said)}."

    def _only_classes(self) -> bool:
        """Whether only the number of classes differs: at most two tensors, only in their first
        dimension, and all in the same way.
        """
        pairs = {(there[0], here[0]) for there, here in self.shapes.values() if there and here}
        rest = all(there[1:] == here[1:] for there, here in self.shapes.values())
        return len(pairs) == 1 and rest and len(self.shapes) <= 2


def _learns_nothing(name: str, wanted: Shapes) -> bool:
    """Whether a file may lack the entry called `name`: a batch counter, or the normalisation of our
    networks.
    """
    size = wanted[name]
    scale = name.startswith("maps.") and bool(_SCALE.search(name)) and len(size) == 4
    return name.endswith("num_batches_tracked") or scale


def _by(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "a number"


def _some(names: Iterable[str]) -> str:
    """Returns up to three of the names, and how many more there are, for a sentence."""
    every = [harmless(name) for name in names]
    return ", ".join(every[:SAID]) + (f" and {len(every) - SAID} more" if len(every) > SAID else "")


def agreement(state: Mapping[str, Tensor], own: Shapes, net: str) -> float:
    """Returns how well weights fit a network called `net`, from 0 to 1: of all names in `state` or
    in `own`, the share that both have with the same shape, under the best renaming. Entries of
    `own` that are not learned (see `fitted`) count as agreeing if `state` lacks them.
    """
    return max(
        1 - each.count / max(1, len({*each.state, *own}))
        for each in (_Apart.of(named, own) for named in _renamed(state, net.rpartition(":")[2]))
    )
