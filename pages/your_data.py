"""Your data: how does a network classify your own pictures?"""

from robustviz.views.your_data import panel

panel.page()
