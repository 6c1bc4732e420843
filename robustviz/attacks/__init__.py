"""Attacks, one file each, on one ascent engine (`base.py`) and one set of balls (`balls.py`)."""

from robustviz.attacks.base import Attack as Attack
from robustviz.attacks.fgsm import FGSM as FGSM
from robustviz.attacks.pgd import PGD as PGD
