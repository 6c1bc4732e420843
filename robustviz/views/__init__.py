"""One folder per view (a page that answers one question). It has the view's specs and results, the
probe that measures them, the figures that draw them and the panel that shows them.
"""

from __future__ import annotations

from pathlib import Path


def modules(name: str) -> list[str]:
    """The dotted names of the modules called `name`, such as `result`, in the folders of all views,
    sorted by folder.
    """
    return [
        f"robustviz.views.{file.parent.name}.{name}"
        for file in sorted(Path(__file__).parent.glob(f"*/{name}.py"))
    ]
