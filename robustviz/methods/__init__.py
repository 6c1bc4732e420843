"""The training methods, mostly one file each.
To add a method, write its file and add its line here, at the place where the app should list it.
"""

# isort: off
from robustviz.methods.standard import Standard as Standard
from robustviz.methods.fgsm_at import FGSMAT as FGSMAT
from robustviz.methods.fgsm_rs import FGSMRS as FGSMRS
from robustviz.methods.pgd_at import PGDAT as PGDAT
from robustviz.methods.trades import TRADES as TRADES
from robustviz.methods.mart import MART as MART
from robustviz.methods.alp import ALP as ALP
from robustviz.methods.aalp import AALP as AALP
from robustviz.methods.part import PART as PART, PARTM as PARTM, PARTT as PARTT
from robustviz.methods.sip_at import SIPAT as SIPAT
from robustviz.methods.afa import AFA as AFA, AFATRADES as AFATRADES
from robustviz.methods.supcon_margin import SupConMargin as SupConMargin
from robustviz.methods.model_alignment import ModelAlignment as ModelAlignment
from robustviz.methods.imported import Imported as Imported
