"""Figures turn results into Plotly. No torch, no Streamlit: the same picture in a page and in a notebook.

Every function returns a `go.Figure` with its alternative text in `figure.layout.meta["alt"]`, and with what is seen in this
case, with its numbers, in `figure.layout.meta["sentence"]`.
"""

from robustviz.figures.adversarial import accuracy_curve as accuracy_curve
from robustviz.figures.adversarial import adversarial as adversarial
from robustviz.figures.adversarial import smallest_eps as smallest_eps
from robustviz.figures.adversarial import trajectory as trajectory
from robustviz.figures.attention import attention as attention
from robustviz.figures.attention import budget as budget
from robustviz.figures.attention import overlap as overlap
from robustviz.figures.attention import road as road
from robustviz.figures.attention import spent as spent
from robustviz.figures.contributions import attack_steps as attack_steps
from robustviz.figures.contributions import contributions as contributions
from robustviz.figures.contributions import dropped as dropped
from robustviz.figures.contributions import opposition as opposition
from robustviz.figures.contributions import pairing as pairing
from robustviz.figures.features import feature_film as feature_film
from robustviz.figures.features import feature_gap as feature_gap
from robustviz.figures.features import feature_map as feature_map
from robustviz.figures.features import features as features
from robustviz.figures.files import csv as csv
from robustviz.figures.files import html as html
from robustviz.figures.misalignment import centre_cosines as centre_cosines
from robustviz.figures.misalignment import misalignment as misalignment
from robustviz.figures.misalignment import misalignment_auc as misalignment_auc
from robustviz.figures.misalignment import pairs as pairs
from robustviz.figures.misalignment import stages as stages
from robustviz.figures.misalignment import uniformity as uniformity
from robustviz.figures.painted import painted as painted
from robustviz.figures.pictures import delta as delta
from robustviz.figures.pictures import gain as gain
from robustviz.figures.pictures import png as png
from robustviz.figures.pictures import sheet as sheet
from robustviz.figures.quadrants import quadrants as quadrants
from robustviz.figures.slides import picture as picture
from robustviz.figures.slides import slides as slides
from robustviz.figures.soft_labels import curvature as curvature
from robustviz.figures.soft_labels import gradients as gradients
from robustviz.figures.soft_labels import soft_labels as soft_labels
from robustviz.figures.surfaces import surfaces as surfaces
from robustviz.figures.surfaces import weight_surface as weight_surface
from robustviz.figures.transfer import prediction_kl as prediction_kl
from robustviz.figures.transfer import transfer as transfer
from robustviz.figures.transfer import transfer_difference as transfer_difference
