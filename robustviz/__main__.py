"""`python -m robustviz`: the command line in `cli.py`, or one sentence where a package that it
needs is not installed.
"""

import sys
from collections.abc import Sequence

from robustviz.process import leave_out_triton


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status."""
    leave_out_triton()
    try:
        from robustviz import cli
    except ModuleNotFoundError as error:
        print(
            f"robustviz: the package {error.name} is not installed; install everything with: pip"
            " install -r requirements.txt",
            file=sys.stderr,
        )
        return 1
    return cli.main(argv)


if __name__ == "__main__":
    raise SystemExit(main())
