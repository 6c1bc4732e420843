"""Probes turn a run into arrays. Each is a registered dataclass of settings; calling it with a run gives a result.

`probes.adversarial(run, spec)` and `spec(run)` are the same; results that take seconds are kept in the run's folder.
"""

from __future__ import annotations

from robustviz.probes.adversarial import AccuracyCurveSpec as AccuracyCurveSpec
from robustviz.probes.adversarial import AdversarialSpec as AdversarialSpec
from robustviz.probes.adversarial import SmallestEpsSpec as SmallestEpsSpec
from robustviz.probes.adversarial import TrajectorySpec as TrajectorySpec
from robustviz.probes.features import FeaturesSpec as FeaturesSpec
from robustviz.probes.painted import PaintedSpec as PaintedSpec
from robustviz.probes.transfer import TransferSpec as TransferSpec
from robustviz.results import AccuracyCurve, Adversarial, Features, Painted, SmallestEps, Trajectory, Transfer
from robustviz.runs import Run


def adversarial(run: Run, spec: AdversarialSpec | None = None) -> Adversarial:
    """One test image attacked on one network."""
    return (spec or AdversarialSpec())(run)


def accuracy_curve(run: Run, spec: AccuracyCurveSpec | None = None) -> AccuracyCurve:
    """Accuracy under PGD at several radii."""
    return (spec or AccuracyCurveSpec())(run)


def painted(run: Run, spec: PaintedSpec | None = None) -> Painted:
    """One test image attacked within a painted budget."""
    return (spec or PaintedSpec())(run)


def smallest_eps(run: Run, spec: SmallestEpsSpec | None = None) -> SmallestEps:
    """The smallest radius that changes the answer, per image."""
    return (spec or SmallestEpsSpec())(run)


def trajectory(run: Run, spec: TrajectorySpec | None = None) -> Trajectory:
    """One image's way through an attack."""
    return (spec or TrajectorySpec())(run)


def features(run: Run, spec: FeaturesSpec | None = None) -> Features:
    """Features of clean, attacked and noisy images, and the measures of all three."""
    return (spec or FeaturesSpec())(run)


def transfer(run: Run, spec: TransferSpec | None = None) -> Transfer:
    """How often images made on the run's network fool others that the attacker never saw."""
    return (spec or TransferSpec())(run)
