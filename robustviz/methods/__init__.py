"""Training methods, one file each. To add one: write its file and add its line here, where people should meet it."""

# isort: off
from robustviz.methods.standard import Standard as Standard
from robustviz.methods.fgsm_at import FGSMAT as FGSMAT
from robustviz.methods.fgsm_rs import FGSMRS as FGSMRS
from robustviz.methods.pgd_at import PGDAT as PGDAT
from robustviz.methods.trades import TRADES as TRADES
