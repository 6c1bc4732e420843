"""Train: what if…? A form made from the registry, a job in its own process, its curves live."""

from robustviz.views.train import panel

panel.page()
