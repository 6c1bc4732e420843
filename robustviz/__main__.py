"""`python -m robustviz`: runs the command line of `robustviz.cli`. If a package that the command
line needs is not installed, prints one sentence instead.
"""

import sys
from collections.abc import Sequence

from robustviz.process import leave_out_triton


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (None: the arguments of this process) and return its exit status.
    If a package that the command line needs is not installed, print a sentence to standard error
    and return 1.
    """
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
