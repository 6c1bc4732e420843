"""Train: what if…? A form generated from the registry, a training in a process of its own, and its
curves while it runs.
"""

from robustviz.views.train import panel

panel.page()
