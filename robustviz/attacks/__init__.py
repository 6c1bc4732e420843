"""Attacks, one file each, on one ascent engine (`base.py`) and one set of balls (`balls.py`)."""

# isort: off
# The order of registration is the order in which people meet them.
from robustviz.attacks.base import Attack as Attack
from robustviz.attacks.fgsm import FGSM as FGSM
from robustviz.attacks.pgd import PGD as PGD
from robustviz.attacks.apgd import APGD as APGD
from robustviz.attacks.square import Square as Square
from robustviz.attacks.autoattack import AutoAttack as AutoAttack
