"""Functions that draw results as Plotly figures, without torch and Streamlit, for pages and
notebooks; and functions that save such figures.

Each figure is a `go.Figure` whose `layout.meta` has its alternative text under "alt", and under
"sentence" what it shows, with numbers. The imports here are for editors; `__getattr__` finds the
other figures.
"""

from typing import TYPE_CHECKING, Any

from robustviz import plugins
from robustviz.imports import load
from robustviz.views import modules
from robustviz.views.attack.figures import (
    accuracy_curve as accuracy_curve,
    adversarial as adversarial,
    smallest_eps as smallest_eps,
    trajectory as trajectory,
)
from robustviz.views.attention.figures import (
    attention as attention,
    budget as budget,
    spent as spent,
)
from robustviz.views.attention.overlap_figures import overlap as overlap, road as road
from robustviz.views.contributions.figures import (
    contributions as contributions,
    dropped as dropped,
    opposition as opposition,
    pairing as pairing,
)
from robustviz.views.contributions.steps_figures import attack_steps as attack_steps
from robustviz.views.features.figures import feature_gap as feature_gap, features as features
from robustviz.views.features.film_figures import feature_film as feature_film
from robustviz.views.features.map_figures import feature_map as feature_map
from robustviz.views.files import csv as csv, html as html
from robustviz.views.loss.figures import (
    curvature as curvature,
    gradients as gradients,
    soft_labels as soft_labels,
)
from robustviz.views.loss.surface_figures import (
    surfaces as surfaces,
    weight_surface as weight_surface,
)
from robustviz.views.misalignment.figures import (
    centre_cosines as centre_cosines,
    misalignment as misalignment,
    misalignment_auc as misalignment_auc,
    pairs as pairs,
    stages as stages,
    uniformity as uniformity,
)
from robustviz.views.paint.figures import painted as painted
from robustviz.views.paper import caption as caption, for_paper as for_paper
from robustviz.views.pictures import delta as delta, gain as gain, png as png, sheet as sheet
from robustviz.views.printing import fonts as fonts, printed as printed, write as write
from robustviz.views.quadrants.figures import quadrants as quadrants
from robustviz.views.slides import picture as picture, slides as slides
from robustviz.views.transfer.figures import (
    alignment as alignment,
    prediction_kl as prediction_kl,
    transfer as transfer,
    transfer_difference as transfer_difference,
)

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Look up a figure that is not imported above, of another view or of a plug-in."""
        for module in () if name.startswith("_") else modules("figures"):
            value = vars(load(module)).get(name)
            if getattr(value, "__module__", "") == module:
                return value
        if name in plugins.figures():
            return plugins.figures()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
