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
)
LIST = "checkpoints/SHA256SUMS"
# Networks whose images must be downloaded stay in the checkout, so that the wheel is below 30 MB.
LEFT_OUT = "cifar10-"


class BuildWithShipped(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:  # an editable copy finds them in the checkout
            for name in SHIPPED:
                self._ship(Path(name), Path(self.build_lib, "robustviz", "shipped", name))
            lines = Path(LIST).read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if f"  zoo/{LEFT_OUT}" not in line)
            Path(self.build_lib, "robustviz", "shipped", LIST).write_bytes(kept.encode())

    @staticmethod
    def _ship(source: Path, target: Path) -> None:
        if source.is_dir():
            litter = ("__pycache__", ".DS_Store", "Thumbs.db", "desktop.ini")
            if source.name == "zoo":
                litter = (*litter, f"{LEFT_OUT}*")
            ignore = shutil.ignore_patterns(*litter)
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


setup(cmdclass={"build_py": BuildWithShipped})
