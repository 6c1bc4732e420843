"""What lies in one run's folder, opened and written as typed values: settings, status, epochs,
weights, and what a resume needs. No torch is needed to look at it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustviz.runs.contents import (
    FOUND_OUT,
    UNKNOWN,
    Info,
    Record,
    Status,
    Want,
    checked,
    live,
    opened,
)
from robustviz.runs.files import (
    cannot_write,
    digest,
    held,
    read_json,
    read_lines,
    stamp,
    to_bytes,
    write_file,
)
from robustviz.types import JSON, UserError

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from robustviz.nets import Classifier
    from robustviz.training.config import TrainConfig
    from robustviz.views.attack.result import Strip


class Inside:
    """The files of one run. Making the object reads nothing."""

    def __init__(self, path: Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @property
    def id(self) -> str:
        return self.path.name

    # What was asked.

    @cached_property
    def info(self) -> Info:
        """`config.json` as it is, without torch: the config's fields, `versions`, and `images` once
        it has begun. Raises UserError where it is damaged.
        """
        return opened(Info, self.path / "config.json")

    @cached_property
    def config(self) -> TrainConfig:
        """The config this run was made with. Raises UserError where it is damaged or from another
        version.
        """
        from robustviz.training.config import TrainConfig

        asked = {name: value for name, value in self.info.items() if name not in FOUND_OUT}
        try:
            return TrainConfig.from_json(asked)
        except UserError as error:
            raise UserError(
                f"{self.path / 'config.json'} is damaged or of another version of robustviz:"
                f" {error} Remove the run folder, or restore the file."
            ) from error

    @property
    def data_key(self) -> str:
        return str(self.info["data"]["key"])

    @property
    def method_key(self) -> str:
        return str(self.info["method"]["key"])

    @property
    def architecture(self) -> str:
        return self.info["net"]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Classes, channels and pixels of a side of the images this network was made for; zeros
        before it has begun.
        """
        images = self.info.get("images")
        return (images["classes"], images["channels"], images["size"]) if images else (0, 0, 0)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes; none before it has begun."""
        images = self.info.get("images")
        return images.get("names", ()) if images else ()

    @property
    def seed(self) -> int:
        return self.info["seed"]

    @property
    def eps(self) -> float:
        return self.info["eps"]

    # How it goes.

    def status(self) -> Status:
        """`status.json`; a missing or damaged one reads as failed, and resuming writes it anew."""
        try:
            return opened(Status, self.path / "status.json", UNKNOWN)
        except UserError:
            return {**UNKNOWN, "error": "status.json is missing or damaged."}

    def set_status(self, **changes: Any) -> None:
        """Merge `changes` into `status.json`."""
        path = self.path / "status.json"
        old = self.status() if path.exists() else UNKNOWN
        write_file(path, to_bytes({**old, **changes}))

    def wanted(self) -> Want:
        """What the person asked of the running process: `pause`, `stop` or nothing."""
        wanted: Want = ""
        with contextlib.suppress(UserError):
            asked = read_json(self.path / "control.json").get("want")
            wanted = asked if asked in ("pause", "stop") else ""
        return wanted

    def ask(self, want: str) -> None:
        """Leave a wish for the running process; empty: take it back."""
        if want:
            write_file(self.path / "control.json", to_bytes({"want": want}))
        else:
            path = self.path / "control.json"
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise cannot_write(path, error) from error

    # What came out.

    def records(self) -> list[Record]:
        """The finished epochs, one mapping each. What is none, as a half-written last line, is left
        out.
        """
        records = []
        for line in read_lines(self.path / "metrics.jsonl"):
            with contextlib.suppress(UserError):
                records.append(checked(Record, line))
        return records

    def metrics(self) -> pd.DataFrame:
        """The finished epochs as a table: one row an epoch, each loss term a column
        `loss_<term>`.
        """
        import pandas as pd

        def row(record: Record) -> dict[str, object]:
            terms = {f"loss_{name}": value for name, value in record["losses"].items()}
            return {name: value for name, value in record.items() if name != "losses"} | terms

        return pd.DataFrame(map(row, self.records()))

    def strip(self) -> Strip | None:
        """Eight validation images as the net saw them last; None before the first epoch, and where
        the file is damaged.
        """
        return live(self.path / "live.npz", len(self.classes))

    def net(self, epoch: int | None = None, which: str = "best") -> Classifier:
        """The trained network on the CPU, in eval mode: the best epoch's, the last's, or a
        snapshot's.

        Raises UserError where the weights are missing, damaged, or of another architecture.
        """
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from robustviz import nets
        from robustviz.chance import drawn_from

        name = {"best": "net.safetensors", "last": "last.safetensors"}[which]
        path = self.path / (name if epoch is None else f"snapshots/epoch-{epoch:04d}.safetensors")
        if not path.exists():
            raise UserError(
                f"The run {self.id} has no {path.name}: "
                + (
                    "it has not finished an epoch yet."
                    if epoch is None
                    else "no snapshot of that epoch was kept."
                )
            )
        try:
            weights = load_file(path)
            # weights that are replaced at once; the global generator belongs to everybody
            with drawn_from(torch.Generator()):
                net = nets.build(self.config.net, *self.shape)
            net.load_state_dict(
                {
                    key: value.float() if value.is_floating_point() else value
                    for key, value in weights.items()
                }
            )
        except (SafetensorError, RuntimeError, OSError, ValueError) as error:
            raise UserError(
                f"The weights of {self.id} ({path.name}) are damaged or of another network; restore"
                " the file or train again."
            ) from error
        return net.eval()

    @property
    def snapshots(self) -> list[int]:
        """The epochs whose weights were kept besides the best ones, in order: what `net(epoch=…)`
        can load.
        """
        names = (
            path.stem.removeprefix("epoch-")
            for path in (self.path / "snapshots").glob("epoch-*.safetensors")
        )
        return sorted(int(name) for name in names if name.isdecimal())

    @property
    def weights(self) -> str:
        """A hash of the best weights, short; empty without any. What was measured on other weights
        does not count.
        """
        path = self.path / "net.safetensors"
        now = stamp(path)
        return digest(path, now[0]) if any(now) else ""

    # What a resume needs.

    def save_state(self, tensors: Mapping[str, torch.Tensor], plain: JSON) -> None:
        """Freeze a training in one file, so that no kill can tear weights from position."""
        from safetensors.torch import save

        write_file(
            self.path / "state" / "state.safetensors",
            save(dict(tensors), metadata={"plain": json.dumps(plain)}),
        )

    def load_state(self) -> tuple[dict[str, torch.Tensor], JSON] | None:
        """What `save_state` kept, or None. Raises UserError where the file is damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.path / "state" / "state.safetensors"
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                plain = json.loads(file.metadata()["plain"])
                return {name: file.get_tensor(name) for name in file.keys()}, plain  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise UserError(
                f"The saved state of {self.id} is damaged, so it cannot be resumed; its finished"
                " weights are untouched."
            ) from error

    def save_weights(self, name: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Write weights as safetensors under `name`."""
        from safetensors.torch import save

        write_file(
            self.path / name,
            save({key: value.detach().cpu().contiguous() for key, value in weights.items()}),
        )

    def locked(self) -> AbstractContextManager[None]:
        """Hold the run for one writer; the system lets go when a process dies. Raises UserError
        where it is held.
        """
        return held(
            self.path / ".lock",
            0,
            f"The run {self.id} is being written by another process; wait for it, or stop it"
            " first.",
        )
