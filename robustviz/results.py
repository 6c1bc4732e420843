"""What probes return and figures read: frozen dataclasses of NumPy arrays, each savable as one `.npz` without pickle.

No torch here, so that a notebook on a machine without it can still draw what another one computed.
"""

from __future__ import annotations

import dataclasses
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from robustviz.types import JSON, UserError

R = TypeVar("R", bound="Result")
Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def wilson(k: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval (low, high), fractions, of a share of which `k` of `n` were seen. (0, 1) for n = 0.

    Source: Wilson 1927, the score interval; unlike p ± 2σ it stays inside [0, 1] and is honest near its ends.
    """
    if n == 0:
        return 0.0, 1.0
    p, spread = k / n, z * z / n
    centre = (p + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(p * (1 - p) / n + spread / (4 * n))
    return max(0.0, centre - half), min(1.0, centre + half)


@dataclass(frozen=True)
class Result:
    """Base of all results: arrays, plus `meta` with what made them (run id, protocol, class names)."""

    meta: JSON = field(default_factory=dict, kw_only=True)

    def to_npz(self) -> bytes:
        """The result as the bytes of an `.npz`: each array under its name, everything else as JSON under `json`."""
        arrays: dict[str, Any] = {}
        rest: JSON = {}
        for name, value in ((f.name, getattr(self, f.name)) for f in dataclasses.fields(self)):
            if isinstance(value, np.ndarray):
                arrays[name] = value
            else:
                rest[name] = value
        buffer = io.BytesIO()
        np.savez_compressed(buffer, json=np.array(json.dumps(rest)), **arrays)
        return buffer.getvalue()

    @classmethod
    def from_npz(cls: type[R], data: bytes) -> R:
        """The result that `to_npz` wrote. Raises UserError where the bytes are something else."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
            return cls(**json.loads(str(found.pop("json"))), **found)
        except Exception as error:  # a damaged zip raises a dozen kinds (zlib, zipfile, struct, …); each means: not this
            raise UserError(f"This is not a saved {cls.__name__}: {' '.join(str(error).split())}. Compute it again.") from error


@dataclass(frozen=True)
class Adversarial(Result):
    """One image attacked on one network.

    `x`, `x_adv` (C,H,W) in [0,1]; `y` the true class; `probs`, `probs_adv` (K,) softmax outputs before and after;
    `eps` the radius, `distance` the measured max |δ| (or ‖δ‖₂).
    """

    x: Floats
    x_adv: Floats
    y: int
    probs: Floats
    probs_adv: Floats
    eps: float
    distance: float


@dataclass(frozen=True)
class AccuracyCurve(Result):
    """Accuracy under one attack at several radii on the same `n` images: `eps` (E,), `k` (E,) still right."""

    eps: Floats
    k: Ints
    n: int

    @property
    def accuracy(self) -> Floats:
        """Fractions (E,)."""
        return self.k / max(self.n, 1)

    @property
    def interval(self) -> Floats:
        """Wilson 95 % intervals (E, 2)."""
        return np.array([wilson(int(k), self.n) for k in self.k])


@dataclass(frozen=True)
class SmallestEps(Result):
    """The smallest radius found at which an attack changes the answer, per image.

    `eps` (N,): 0 where the clean image is wrong already, infinite where even `limit` was not enough; `index` (N,)
    positions in the test split; `limit` the largest radius tried; `tolerance` the width of the last bracket.
    """

    eps: Floats
    index: Ints
    limit: float
    tolerance: float


@dataclass(frozen=True)
class Trajectory(Result):
    """One image's way through an attack: `probs` (steps+1, K) after each step, `loss` (steps+1,), `y`, `eps`."""

    probs: Floats
    loss: Floats
    y: int
    eps: float


@dataclass(frozen=True)
class Strip:
    """A few images attacked at the end of an epoch: `x`, `x_adv` (N,C,H,W), `y`, `pred`, `pred_adv` (N,)."""

    x: Floats
    x_adv: Floats
    y: Ints
    pred: Ints
    pred_adv: Ints
    eps: float
    epoch: int


@dataclass(frozen=True)
class Finding:
    """One check of the doctor: its name, whether nothing was found, what was measured, one sentence."""

    name: str
    ok: bool
    value: float
    text: str


@dataclass(frozen=True)
class Evaluation:
    """Accuracy on clean and on attacked images of one split, with everything needed to repeat it.

    `attack` is the attack's JSON with all settings; `clean_k`, `robust_k` of `n` images were right, untouched and
    attacked. Fractions and intervals are derived.
    """

    attack: JSON
    eps: float
    n: int
    clean_k: int
    robust_k: int
    seed: int
    split: str
    seconds: float
    device: str
    doctor: tuple[Finding, ...] = ()
    key: str = ""
    weights: str = ""

    @property
    def clean_acc(self) -> float:
        return self.clean_k / max(self.n, 1)

    @property
    def robust_acc(self) -> float:
        return self.robust_k / max(self.n, 1)

    @property
    def ok(self) -> bool:
        """Whether no check of the doctor found a fault. Not a proof."""
        return all(finding.ok for finding in self.doctor)

    def to_json(self) -> JSON:
        """Plain values, with fractions and 95 % intervals written out for people who read the file."""
        out = dataclasses.asdict(self)
        return out | {
            "clean_acc": self.clean_acc, "clean_interval": list(wilson(self.clean_k, self.n)),
            "robust_acc": self.robust_acc, "robust_interval": list(wilson(self.robust_k, self.n)),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_json` wrote; derived entries are ignored. Raises UserError for anything else."""
        names = {f.name for f in dataclasses.fields(cls)}
        try:
            kept = {name: value for name, value in data.items() if name in names}
            kept["doctor"] = tuple(Finding(**finding) for finding in kept.get("doctor", ()))
            return cls(**kept)
        except (TypeError, AttributeError) as error:
            raise UserError("An entry of eval.json is damaged: remove the file and evaluate the run again.") from error
