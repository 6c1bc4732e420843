"""The attacks, one file each. All derive from `Attack` in `base.py`; PGD and its relatives also
share its ascent loop.
"""

# isort: off
# The app lists attacks in the order in which they are registered, so this order is deliberate.
from robustviz.attacks.base import Attack as Attack
from robustviz.attacks.objective import LogitObjective as LogitObjective
from robustviz.attacks.fgsm import FGSM as FGSM
from robustviz.attacks.pgd import PGD as PGD
from robustviz.attacks.mim import MIM as MIM
from robustviz.attacks.dim import DIM as DIM
from robustviz.attacks.tim import TIM as TIM
from robustviz.attacks.cw import CW as CW
from robustviz.attacks.apgd import APGD as APGD
from robustviz.attacks.square import Square as Square
from robustviz.attacks.autoattack import AutoAttack as AutoAttack
