"""Where files are stored: those shipped with robustviz, and those the user makes.

In a checkout both are folders of the repository. In an installed copy the shipped files are inside
the package, and the user's files in the system's folder for application data.
"""

import os
import sys
from pathlib import Path

from robustviz.types import UserError

PACKAGE = Path(__file__).resolve().parent
_SHIPPED = PACKAGE / "shipped"  # setup.py creates it in a wheel; a checkout does not have it

CHECKOUT = not _SHIPPED.is_dir()
ROOT = PACKAGE.parent if CHECKOUT else _SHIPPED  # holds checkpoints, pages and .streamlit
INSTALL = "pip install -r requirements.txt" if CHECKOUT else 'pip install "robustviz[all]"'


def users(name: str, variable: str, in_checkout: str) -> Path:
    """The user's folder for `name`, such as "runs": the one that the environment variable
    `variable` names; else, in a checkout, the path `in_checkout` below the repository's root; else
    a folder in the system's folder for application data. It may not exist yet.
    """
    if named := os.environ.get(variable, "").strip():
        return Path(named).expanduser()
    return ROOT / in_checkout if CHECKOUT else _data_home() / "robustviz" / name


def roots() -> tuple[Path, ...]:
    """The folders below which people's data may be read: those listed in the environment variable
    `ROBUSTVIZ_FOLDERS`, separated by `:` (`;` on Windows), and the folder of uploads; absolute,
    with symbolic links resolved. Empty if the variable is not set or empty; then everything may be
    read.
    """
    said = os.environ.get("ROBUSTVIZ_FOLDERS", "")
    named = [one for one in said.split(os.pathsep) if one.strip()]
    uploaded = users("runs", "ROBUSTVIZ_RUNS", "checkpoints/runs") / ".data"
    return tuple(Path(one).expanduser().resolve() for one in (*named, str(uploaded)) if said)


def open_to(path: Path, allowed: tuple[Path, ...] | None = None) -> bool:
    """Whether a file or folder, with symbolic links resolved, may be read: it must be one of the
    `allowed` roots (resolved paths; None: `roots()`) or lie below one. If there are no roots, as
    with `allowed=()`, everything may be read.
    """
    allowed = roots() if allowed is None else allowed
    return not allowed or any(path.resolve().is_relative_to(root) for root in allowed)


def check_open(path: Path, allowed: tuple[Path, ...] | None = None) -> None:
    """Raises UserError if `open_to` is false for these arguments: the file or folder is neither one
    of the `allowed` roots (None: `roots()`) nor below one.
    """
    allowed = roots() if allowed is None else allowed
    if not open_to(path, allowed):
        raise UserError(
            f"{path} is not below {' or '.join(map(str, allowed))}: only files in there may be"
            " read. The person who runs robustviz can allow other folders in ROBUSTVIZ_FOLDERS."
        )


def _data_home() -> Path:
    homes = {
        "darwin": "~/Library/Application Support",
        "win32": os.environ.get("LOCALAPPDATA") or "~/AppData/Local",
    }
    return Path(
        homes.get(sys.platform) or os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    ).expanduser()
