"""Your data: what does a network make of your own pictures?"""

from robustviz.views.your_data import panel

panel.page()
