"""The files in a run's folder as typed values, checked when they are opened: the caller gets valid
values, or one sentence about what is wrong. Only `config`, the weights and the state for a resume
need torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from robustviz import memory, plugins
from robustviz.runs.entries import (
    FOUND_OUT as FOUND_OUT,
    MOST,
    OVER as OVER,
    UNKNOWN,
    Info,
    Record as Record,
    State as State,
    Status as Status,
    Want,
    checked,
    opened,
)
from robustviz.runs.files import (
    as_large,
    cannot_write,
    digest,
    held,
    read_json,
    settled,
    stamp,
    to_bytes,
    write_file,
)
from robustviz.runs.weights import weights_in
from robustviz.types import JSON, UserError, harmless
from robustviz.views.attack.result import Strip

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from robustviz.nets import Classifier
    from robustviz.training.config import TrainConfig

LONGEST = 80  # characters of a label; tables and legends have no room for more


def _read_status(path: Path) -> Status:
    found = opened(Status, path, UNKNOWN)
    return found | {"error": harmless(found["error"]), "note": harmless(found["note"])}


@memory.remembered(memory.ANSWERS, as_large)
def _status(path: Path, stamp: tuple[int, int, int]) -> Status:
    """Returns what `_read_status` does, from a cache: a list of a thousand runs reads all statuses
    at every click.
    """
    return _read_status(path)


def _read_records(path: Path) -> list[Record]:
    records = []
    with contextlib.suppress(OSError):
        for line in path.read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError, RecursionError):
                records.append(checked(Record, json.loads(line)))
    return records


@memory.remembered(memory.ANSWERS, as_large)
def _records(path: Path, stamp: tuple[int, int, int]) -> list[Record]:
    return _read_records(path)


def live(path: Path, classes: int) -> Strip | None:
    """Returns the validation images and predictions in the file `path`, a run's `live.npz`. None if
    the file is missing or damaged, if a pixel is not finite, or if a label is not below `classes`,
    the number of classes (0: unknown).
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            entries: JSON = {field.name: file[field.name] for field in dataclasses.fields(Strip)}
        strip = Strip(**entries | {"eps": float(entries["eps"]), "epoch": int(entries["epoch"])})
        labels = np.array([strip.y, strip.pred, strip.pred_adv]).reshape(3, len(strip.x))
        pictures = np.array([strip.x, strip.x_adv], dtype=np.float32)
        return (
            strip
            if (pictures.ndim == 5 and np.isfinite(pictures).all() and math.isfinite(strip.eps))
            and (
                labels.dtype.kind in "iu" and 0 <= labels.min() <= labels.max() < (classes or MOST)
            )
            else None
        )
    except Exception:  # a damaged zip raises many kinds of errors
        return None


class Inside:
    """The files of one run folder. Creating the object reads nothing."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def id(self) -> str:
        return self.path.name

    # Settings.

    @cached_property
    def info(self) -> Info:
        """The content of `config.json`, read without torch: the config's fields, `versions`,
        `images` once training has begun, and further facts (`entries.Info`). Raises UserError if it
        is damaged.
        """
        found = opened(Info, self.path / "config.json")
        if "names" in (images := found.get("images", {})):
            images["names"] = tuple(map(harmless, images["names"]))
        if "label" in found:
            found["label"] = harmless(found["label"])[:LONGEST].strip()
        return found

    @cached_property
    def config(self) -> TrainConfig:
        """The config of this run; needs torch. Raises UserError if it is damaged or from another
        version, and if it needs a plug-in that is missing here.
        """
        from robustviz.training.config import TrainConfig

        if self.lacks:
            raise UserError(self.lacks)
        asked = {name: value for name, value in self.info.items() if name not in FOUND_OUT}
        try:
            return TrainConfig.from_json(asked)
        except UserError as error:
            raise UserError(
                f"{self.path / 'config.json'} is damaged or of another version of robustviz:"
                f" {error} If its code is new, restart this program; if the code was removed, bring"
                " it back. Else restore the file, or remove the run's folder."
            ) from error

    @property
    def lacks(self) -> str:
        """A sentence if the run needs a plug-in that is missing here; else empty. If a person has
        trusted the plug-in on this computer and it is not loaded yet, it is loaded now.
        """
        return plugins.lacking(self.info.get("plugins", ()), f"The run {self.id}")

    @property
    def imported(self) -> bool:
        """Whether the network was trained elsewhere and imported."""
        return self.architecture == "imported"

    @property
    def label(self) -> str:
        """The name that a person gave this network, on one line; empty if there is none."""
        return self.info.get("label", "")

    @property
    def data_key(self) -> str:
        return str(self.info["data"]["key"])

    @property
    def data_name(self) -> str:
        """The display name of the run's data: the name that the user gave it, else its key."""
        return harmless(self.info["data"].get("name") or self.data_key)

    @property
    def method_key(self) -> str:
        return str(self.info["method"]["key"])

    @property
    def architecture(self) -> str:
        return self.info["net"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """The number of classes, of channels and of pixels per side of the images that this network
        was made for; zeros before training has begun.
        """
        images = self.info.get("images")
        return (images["classes"], images["channels"], images["size"]) if images else (0, 0, 0)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty before training has begun, or if none were recorded."""
        images = self.info.get("images")
        return images.get("names", ()) if images else ()

    @property
    def seed(self) -> int:
        return self.info["seed"]

    @property
    def eps(self) -> float:
        return self.info["eps"]

    @property
    def norm(self) -> str:
        """The norm of the attack in the run's training, linf or l2; linf without an attack."""
        return str((self.info["method"].get("attack") or {}).get("norm", "linf"))

    # Status and requests.

    def status(self) -> Status:
        """Returns the content of `status.json`; if the file is missing or damaged, a status with
        the state `failed` whose `error` says so. Resuming the run rewrites the file.
        """
        path = self.path / "status.json"
        now = stamp(path)
        try:
            return (_status(path, now) if settled(now) else _read_status(path)).copy()
        except UserError:
            return {**UNKNOWN, "error": "status.json is missing or damaged."}

    def set_status(self, **changes: Any) -> None:
        """Merge `changes` into `status.json`. Raises UserError if the folder is not writable, and
        if the run was removed, because writing would bring its folder back.
        """
        path = self.path / "status.json"
        if not (self.path / "config.json").exists():
            raise UserError(f"The run {self.id} was removed.")
        write_file(path, to_bytes((self.status() if path.exists() else UNKNOWN) | changes))

    def wanted(self) -> Want:
        """Returns what a person asked the process that trains the run to do: `pause`, `stop`, or an
        empty text if nothing was asked.
        """
        with contextlib.suppress(UserError):
            asked = read_json(self.path / "control.json").get("want")
            return cast(Want, asked if asked in ("pause", "stop") else "")
        return ""

    def ask(self, want: str) -> None:
        """Ask the process that trains the run to `pause` or `stop`; an empty text withdraws the
        request. Raises UserError if the folder is not writable.
        """
        if want:
            write_file(self.path / "control.json", to_bytes({"want": want}))
        else:
            path = self.path / "control.json"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    # Results.

    def records(self) -> list[Record]:
        """Returns the results of the finished epochs, one dict each; empty before the first.
        Invalid lines of the file, such as a half-written last line, are left out.
        """
        path = self.path / "metrics.jsonl"
        now = stamp(path)
        return list(_records(path, now) if settled(now) else _read_records(path))

    def metrics(self) -> pd.DataFrame:
        """Returns the results of the finished epochs as a data frame. Each epoch is a row, each
        loss term a column `loss_<term>`, and each other field of a `Record` a column of its name.
        """
        import pandas as pd

        return pd.DataFrame(
            {name: value for name, value in record.items() if name != "losses"}
            | {f"loss_{name}": value for name, value in record["losses"].items()}
            for record in self.records()
        )

    def strip(self) -> Strip | None:
        """Returns up to eight validation images with the network's latest predictions; None before
        the first epoch, and if the file is damaged.
        """
        return live(self.path / "live.npz", len(self.classes))

    def net(self, epoch: int | None = None, which: str = "best") -> Classifier:
        """Returns the trained network on the CPU, in eval mode, with the weights of the best epoch.
        `which="last"` takes those of the last epoch instead. If `epoch` (from 1) is given, they
        come from the snapshot of that epoch, which is stored in 16 bits.

        Raises UserError if the weights are missing, damaged, or of another architecture.
        """
        import torch
        from safetensors import SafetensorError

        path = self.path / (
            {"best": "net.safetensors", "last": "last.safetensors"}[which]
            if epoch is None
            else f"snapshots/epoch-{epoch:04d}.safetensors"
        )
        if not path.exists():
            raise UserError(
                f"The run {self.id} has no {path.name}: "
                + (
                    "it has not finished an epoch yet."
                    if epoch is None
                    else "no snapshot of that epoch was kept."
                )
            )
        net = self.fresh(torch.Generator())
        try:
            net.load_state_dict(weights_in(path))
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise UserError(
                f"The weights of {self.id} ({path.name}) are damaged or of another network; restore"
                " the file or train again."
            ) from error
        return net.eval()

    def fresh(self, rng: torch.Generator) -> Classifier:
        """Returns the run's network with random weights drawn from `rng`, on the CPU. Raises
        UserError if this version cannot make it.
        """
        from robustviz import nets
        from robustviz.chance import drawn_from
        from robustviz.nets import known

        config = self.config
        with drawn_from(rng):  # torch's global generator is shared by all threads
            if self.imported:
                return known.network(self.info.get("network"), self.shape, f"The run {self.id}")
            return config.method.network(nets.build(config.net, *self.shape))

    @property
    def snapshots(self) -> list[int]:
        """The epochs of which a snapshot of the weights was saved, in ascending order: those that
        `net(epoch=…)` can load.
        """
        return sorted(
            int(path.stem.removeprefix("epoch-"))
            for path in (self.path / "snapshots").glob("epoch-*.safetensors")
            if path.stem.removeprefix("epoch-").isdecimal()
        )

    @property
    def weights(self) -> str:
        """A hash (16 hex digits) of the file of the best weights; empty if there is none. Stored
        results that were measured on other weights are ignored.
        """
        path = self.path / "net.safetensors"
        now = stamp(path)
        return digest(path, now[0]) if any(now) else ""

    # State for a resume, and locking.

    def save_state(self, tensors: Mapping[str, torch.Tensor], plain: JSON) -> None:
        """Save the state of a training (`training.loop.Training.state`) in a single file, so that
        its weights and its position cannot be separated if the process is killed.
        """
        from safetensors.torch import save

        write_file(
            self.path / "state" / "state.safetensors",
            save(dict(tensors), metadata={"plain": json.dumps(plain)}),
        )

    def load_state(self) -> tuple[dict[str, torch.Tensor], JSON] | None:
        """Returns the tensors and values that `save_state` saved; None if nothing was saved. Raises
        UserError if the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self.path / "state" / "state.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, json.loads(file.metadata()["plain"])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"The saved state of {self.id} is damaged, so it cannot be resumed; its finished"
                " weights are untouched."
            ) from error

    def save_weights(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Write weights into the safetensors file `name` of the run's folder."""
        from safetensors.torch import save

        write_file(
            self.path / name,
            save({key: value.detach().cpu().contiguous() for key, value in weights.items()}),
        )

    def locked(self) -> AbstractContextManager[None]:
        """A context manager that holds the lock for writing this run; the system releases it when
        the process dies. Raises UserError if another process still holds it after two seconds, or
        if the run's folder is not writable.
        """
        return held(
            self.path / ".lock",
            2,  # seconds, because `is_held` takes the lock for a moment
            f"The run {self.id} is being written by another process; wait for it, or stop it"
            " first.",
        )

    def is_held(self) -> bool:
        """Whether a process holds the lock for writing this run."""
        path = self.path / ".lock"
        try:
            with held(path, 0, "held") if path.exists() else contextlib.nullcontext():
                return False
        except UserError as error:
            return str(error) == "held"
