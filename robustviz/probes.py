"""Probes measure a run and return a result with arrays: `probes.adversarial(run,
AdversarialSpec(index=3))`.

A spec is a registered dataclass with a probe's settings. Results of a `cacheable` spec are saved in
the run's folder, those of shipped runs in a cache (`Run.notes`). The imports here are for editors;
`__getattr__` finds the other probes and specs.
"""

from typing import TYPE_CHECKING, Any

from robustviz import plugins
from robustviz.imports import load
from robustviz.views import modules
from robustviz.views.attack.probe import (
    accuracy_curve as accuracy_curve,
    adversarial as adversarial,
    answers as answers,
    attack_levels as attack_levels,
    smallest_eps as smallest_eps,
    trajectory as trajectory,
)
from robustviz.views.attack.result import (
    AccuracyCurveSpec as AccuracyCurveSpec,
    AdversarialSpec as AdversarialSpec,
    AnswersSpec as AnswersSpec,
    AttackLevelsSpec as AttackLevelsSpec,
    SmallestEpsSpec as SmallestEpsSpec,
    TrajectorySpec as TrajectorySpec,
)
from robustviz.views.attention.probe import (
    attention as attention,
    attention_levels as attention_levels,
    overlap as overlap,
    road as road,
)
from robustviz.views.attention.result import (
    AttentionLevelsSpec as AttentionLevelsSpec,
    AttentionSpec as AttentionSpec,
    OverlapSpec as OverlapSpec,
    RoadSpec as RoadSpec,
)
from robustviz.views.compare.probe import alongside as alongside
from robustviz.views.compare.result import AlongsideSpec as AlongsideSpec
from robustviz.views.contributions.probe import (
    attack_steps as attack_steps,
    carried as carried,
    contributions as contributions,
    pairing as pairing,
)
from robustviz.views.contributions.result import (
    AttackStepsSpec as AttackStepsSpec,
    CarriedSpec as CarriedSpec,
    ContributionsSpec as ContributionsSpec,
    PairingSpec as PairingSpec,
)
from robustviz.views.features.probe import (
    feature_film as feature_film,
    feature_map as feature_map,
    feature_tiles as feature_tiles,
    features as features,
)
from robustviz.views.features.result import (
    FeatureFilmSpec as FeatureFilmSpec,
    FeatureMapSpec as FeatureMapSpec,
    FeaturesSpec as FeaturesSpec,
    FeatureTilesSpec as FeatureTilesSpec,
)
from robustviz.views.loss.probe import (
    curvature as curvature,
    gradients as gradients,
    soft_labels as soft_labels,
    surfaces as surfaces,
    weight_surface as weight_surface,
    worst_direction as worst_direction,
)
from robustviz.views.loss.result import (
    CurvatureSpec as CurvatureSpec,
    GradientsSpec as GradientsSpec,
    SoftLabelsSpec as SoftLabelsSpec,
    SurfacesSpec as SurfacesSpec,
    WeightSurfaceSpec as WeightSurfaceSpec,
    WorstDirectionSpec as WorstDirectionSpec,
)
from robustviz.views.measure import Probe
from robustviz.views.misalignment.probe import (
    misalignment as misalignment,
    pairs as pairs,
    stages as stages,
    uniformity as uniformity,
)
from robustviz.views.misalignment.result import (
    MisalignmentSpec as MisalignmentSpec,
    PairsSpec as PairsSpec,
    StagesSpec as StagesSpec,
    UniformitySpec as UniformitySpec,
)
from robustviz.views.paint.probe import painted as painted
from robustviz.views.paint.result import PaintedSpec as PaintedSpec
from robustviz.views.result import ProbeSpec
from robustviz.views.transfer.probe import fooled as fooled, transfer as transfer
from robustviz.views.transfer.result import FooledSpec as FooledSpec, TransferSpec as TransferSpec

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Look up a probe or a spec that is not imported above, of another view or of a plug-in."""
        for module in (
            ()
            if name.startswith("_")
            else (*modules("probe"), *modules("result"), *plugins.modules())
        ):
            value = vars(load(module)).get(name)
            if isinstance(value, Probe) or (
                isinstance(value, type) and issubclass(value, ProbeSpec)
            ):
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
