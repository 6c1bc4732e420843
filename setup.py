"""Puts what is shipped, which lies beside the package in a checkout, into the wheel."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

# The user's own runs lie in checkpoints, too: those stay out.
SHIPPED = (
    "app.py",
    "pages",
    ".streamlit",
    "checkpoints/zoo",
    "checkpoints/seeds",
    "checkpoints/story",
    "checkpoints/claims",
    "checkpoints/SHA256SUMS",
)


class BuildWithShipped(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable copy finds them in the checkout
            for name in SHIPPED:
                self._ship(Path(name), Path(self.build_lib, "robustviz", "shipped", name))

    @staticmethod
    def _ship(source: Path, target: Path) -> None:
        if source.is_dir():
            litter = shutil.ignore_patterns("__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini")
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=litter)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


setup(cmdclass={"build_py": BuildWithShipped})
