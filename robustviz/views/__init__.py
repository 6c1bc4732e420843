"""A question is a folder: what is asked and answered, who measures it, how it is drawn, how a page
shows it.
"""

from __future__ import annotations

from pathlib import Path


def modules(name: str) -> list[str]:
    """The dotted names of the modules called `name`, such as `result`, of all questions."""
    return [
        f"robustviz.views.{file.parent.name}.{name}"
        for file in sorted(Path(__file__).parent.glob(f"*/{name}.py"))
    ]
