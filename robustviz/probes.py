"""Probes turn a run into arrays. Each is a registered dataclass of settings; calling it with a run
gives a result.

`probes.adversarial(run, spec)` and `spec(run)` are the same; results that take seconds are kept in
the run's folder.
"""

from __future__ import annotations

from robustviz.runs.folder import Run
from robustviz.views.attack.probe import (
    accuracy_curve as accuracy_curve,
    adversarial as adversarial,
    smallest_eps as smallest_eps,
    trajectory as trajectory,
)
from robustviz.views.attack.result import (
    AccuracyCurveSpec as AccuracyCurveSpec,
    AdversarialSpec as AdversarialSpec,
    SmallestEpsSpec as SmallestEpsSpec,
    TrajectorySpec as TrajectorySpec,
)
from robustviz.views.attention.overlap import OverlapSpec as OverlapSpec
from robustviz.views.attention.probe import AttentionSpec as AttentionSpec, RoadSpec as RoadSpec
from robustviz.views.attention.result import Attention, Overlap, Road
from robustviz.views.contributions.probe import (
    attack_steps as attack_steps,
    contributions as contributions,
    pairing as pairing,
)
from robustviz.views.contributions.result import (
    AttackStepsSpec as AttackStepsSpec,
    ContributionsSpec as ContributionsSpec,
    PairingSpec as PairingSpec,
)
from robustviz.views.features.map import (
    FeatureFilmSpec as FeatureFilmSpec,
    FeatureMapSpec as FeatureMapSpec,
)
from robustviz.views.features.probe import FeaturesSpec as FeaturesSpec
from robustviz.views.features.result import FeatureFilm, FeatureMap, Features
from robustviz.views.loss.probe import (
    curvature as curvature,
    gradients as gradients,
    soft_labels as soft_labels,
    surfaces as surfaces,
    weight_surface as weight_surface,
)
from robustviz.views.loss.result import (
    CurvatureSpec as CurvatureSpec,
    GradientsSpec as GradientsSpec,
    SoftLabelsSpec as SoftLabelsSpec,
    SurfacesSpec as SurfacesSpec,
    WeightSurfaceSpec as WeightSurfaceSpec,
)
from robustviz.views.misalignment.pairs import (
    PairsSpec as PairsSpec,
    UniformitySpec as UniformitySpec,
)
from robustviz.views.misalignment.probe import MisalignmentSpec as MisalignmentSpec
from robustviz.views.misalignment.result import Misalignment, Pairs, Stages, Uniformity
from robustviz.views.misalignment.stages import StagesSpec as StagesSpec
from robustviz.views.paint.probe import PaintedSpec as PaintedSpec
from robustviz.views.paint.result import Painted
from robustviz.views.transfer.probe import transfer as transfer
from robustviz.views.transfer.result import TransferSpec as TransferSpec


def painted(run: Run, spec: PaintedSpec | None = None) -> Painted:
    """One test image attacked within a painted budget."""
    return (spec or PaintedSpec())(run)


def features(run: Run, spec: FeaturesSpec | None = None) -> Features:
    """Features of clean, attacked and noisy images, and the measures of all three."""
    return (spec or FeaturesSpec())(run)


def feature_map(run: Run, spec: FeatureMapSpec | None = None) -> FeatureMap:
    """Features of clean and attacked images as points of a plane: class centres, PCA or UMAP."""
    return (spec or FeatureMapSpec())(run)


def feature_film(run: Run, spec: FeatureFilmSpec | None = None) -> FeatureFilm:
    """The same at every epoch whose weights the run kept."""
    return (spec or FeatureFilmSpec())(run)


def misalignment(run: Run, spec: MisalignmentSpec | None = None) -> Misalignment:
    """Why the images of each class do not stay with it: the table and a diagnosis a class."""
    return (spec or MisalignmentSpec())(run)


def stages(run: Run, spec: StagesSpec | None = None) -> Stages:
    """Cosine of clean and attacked images, stage by stage of the network."""
    return (spec or StagesSpec())(run)


def pairs(run: Run, spec: PairsSpec | None = None) -> Pairs:
    """Distances of pairs of features of one class and of two."""
    return (spec or PairsSpec())(run)


def uniformity(run: Run, spec: UniformitySpec | None = None) -> Uniformity:
    """Alignment and uniformity of the features over epochs."""
    return (spec or UniformitySpec())(run)


def attention(run: Run, spec: AttentionSpec | None = None) -> Attention:
    """Where a network looks on one test image, clean and attacked, and PART's budget for it."""
    return (spec or AttentionSpec())(run)


def overlap(run: Run, spec: OverlapSpec | None = None) -> Overlap:
    """How well the maps of many test images lie on the true object."""
    return (spec or OverlapSpec())(run)


def road(run: Run, spec: RoadSpec | None = None) -> Road:
    """Whether painting over what a map calls important matters to the network."""
    return (spec or RoadSpec())(run)
