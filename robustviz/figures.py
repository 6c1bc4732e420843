"""Figures turn results into Plotly. No torch, no Streamlit: the same picture in a page and in a
notebook.

Every function returns a `go.Figure` with its alternative text in `figure.layout.meta["alt"]`, and
with what is seen in this case, with its numbers, in `figure.layout.meta["sentence"]`.
"""

from robustviz.views.attack.figures import accuracy_curve as accuracy_curve
from robustviz.views.attack.figures import adversarial as adversarial
from robustviz.views.attack.figures import smallest_eps as smallest_eps
from robustviz.views.attack.figures import trajectory as trajectory
from robustviz.views.attention.figures import attention as attention
from robustviz.views.attention.figures import budget as budget
from robustviz.views.attention.figures import overlap as overlap
from robustviz.views.attention.figures import road as road
from robustviz.views.attention.figures import spent as spent
from robustviz.views.contributions.figures import attack_steps as attack_steps
from robustviz.views.contributions.figures import contributions as contributions
from robustviz.views.contributions.figures import dropped as dropped
from robustviz.views.contributions.figures import opposition as opposition
from robustviz.views.contributions.figures import pairing as pairing
from robustviz.views.features.figures import feature_film as feature_film
from robustviz.views.features.figures import feature_gap as feature_gap
from robustviz.views.features.figures import feature_map as feature_map
from robustviz.views.features.figures import features as features
from robustviz.views.files import csv as csv
from robustviz.views.files import html as html
from robustviz.views.loss.figures import curvature as curvature
from robustviz.views.loss.figures import gradients as gradients
from robustviz.views.loss.figures import soft_labels as soft_labels
from robustviz.views.loss.surface_figures import surfaces as surfaces
from robustviz.views.loss.surface_figures import weight_surface as weight_surface
from robustviz.views.misalignment.figures import centre_cosines as centre_cosines
from robustviz.views.misalignment.figures import misalignment as misalignment
from robustviz.views.misalignment.figures import misalignment_auc as misalignment_auc
from robustviz.views.misalignment.figures import pairs as pairs
from robustviz.views.misalignment.figures import stages as stages
from robustviz.views.misalignment.figures import uniformity as uniformity
from robustviz.views.paint.figures import painted as painted
from robustviz.views.pictures import delta as delta
from robustviz.views.pictures import gain as gain
from robustviz.views.pictures import png as png
from robustviz.views.pictures import sheet as sheet
from robustviz.views.quadrants.figures import quadrants as quadrants
from robustviz.views.slides import picture as picture
from robustviz.views.slides import slides as slides
from robustviz.views.transfer.figures import prediction_kl as prediction_kl
from robustviz.views.transfer.figures import transfer as transfer
from robustviz.views.transfer.figures import transfer_difference as transfer_difference
