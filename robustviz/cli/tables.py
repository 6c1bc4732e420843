"""The tables of the command line, as Markdown, CSV, LaTeX or HTML, with the columns, rows and order
that the options ask for.
"""

import argparse
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from robustviz import registry
from robustviz.cli.terminal import Arguments, show as answer
from robustviz.types import JSON, UserError, parse_number, table
from robustviz.views.result import csv_of

Row = tuple[JSON, list[str]]  # the row's values for machines, and its cells as text

EMPTY = "No row matches: choose another --filter."
FORMATS = ("markdown", "csv", "latex", "html")
PACKED = ("clean_right", "robust_right")  # packed bits, one for each image: not shown as columns
IS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
CONDITION = re.compile(r"(.+?)\s*(!=|<=|>=|=|<|>|~)\s*(.*)", re.DOTALL)
# characters that are special in LaTeX or missing in its usual fonts
LATEX = {
    "\\": r"\textbackslash{}",
    **{one: f"\\{one}" for one in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "ε": r"$\varepsilon$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "ℓ": r"$\ell$",
    "∞": r"$\infty$",
    "−": r"$-$",
    "–": "--",
    "…": r"\dots{}",
    "→": r"$\rightarrow$",
}
ARGUMENTS: Arguments = {
    "--format": {
        "choices": FORMATS,
        "default": "markdown",
        "help": "csv has every number in full, latex needs the package booktabs",
    },
    "--columns": {
        "metavar": "A,B,…",
        "help": "show only these columns, in this order (of the table or of --format csv)",
    },
    "--filter": {
        "metavar": "COLUMN=VALUE",
        "action": "append",
        "default": [],
        "help": "show only these rows; also !=, <, <=, >, >= and ~ (contains); may be given again",
    },
    "--sort": {"metavar": "COLUMN", "help": "sort by this column"},
    "--descending": {"action": "store_true", "help": "with --sort: the largest first"},
}


def chosen(args: argparse.Namespace, head: Sequence[str], rows: Sequence[Row]) -> list[Row]:
    """The rows that match all --filter options, in the order of --sort. Rows without a value in the
    column of --sort come last.

    Raises UserError for a malformed filter, and, unless there are no rows, for a column that
    neither the table nor a row has.
    """
    kept = list(rows)
    for condition in args.filter:
        found = CONDITION.fullmatch(condition)
        if not found:
            raise UserError(
                f"--filter {condition} is no condition: write it like data=digits, n>=500 or"
                " run~part.",
                code=2,
            )
        name, sign, wanted = found.groups()
        _check([name], head, rows)
        kept = [row for row in kept if _fits(_found(name, head, row), sign, wanted)]
    if args.sort:
        _check([args.sort], head, rows)
        values = [_key(_found(args.sort, head, row)) for row in kept]
        places = sorted(range(len(kept)), key=lambda at: values[at][1:], reverse=args.descending)
        # missing values come last in either direction
        kept = [kept[at] for at in sorted(places, key=lambda at: values[at][0])]
    return kept


def show(
    args: argparse.Namespace,
    head: Sequence[str],
    rows: Sequence[Row],
    notes: Sequence[str],
    empty: str,
) -> int:
    """Print the rows in the format of --format. Markdown, LaTeX and HTML show the cells, with
    `head` above and `notes` below; CSV and JSON show the values for machines under their own names.
    Without rows, print the text `empty`; in CSV an empty line, in JSON an empty list.

    Returns exit status 0. Raises UserError if --json comes with --columns, or with a --format that
    is not the default (markdown); and if there are rows, for a column in --columns that is neither
    in `head` nor among the values for machines.
    """
    if args.json:
        if args.columns or args.format != "markdown":
            raise UserError(
                "--json has everything: leave out --columns and --format, or choose --format csv.",
                code=2,
            )
        return answer(args, [facts for facts, _ in rows], "")
    names = [name.strip() for name in (args.columns or "").split(",") if name.strip()]
    _check(names, head, rows)
    if args.format == "csv":
        flat = [_flat(facts) for facts, _ in rows]
        if names:
            flat = [{name: _found(name, head, row) for name in names} for row in rows]
        text = csv_of([{each: safe(value) for each, value in row.items()} for row in flat])
        return answer(args, None, text.decode().replace("\r\n", "\n").rstrip("\n"))
    if not rows:
        return answer(args, None, empty)
    cells = [line for _, line in rows]
    if names:
        head, cells = names, [[_read(name, head, row) for name in names] for row in rows]
    write = {"markdown": _markdown, "latex": _latex, "html": _html}[args.format]
    return answer(args, None, "\n".join(write(head, cells, notes)))


def _markdown(
    head: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]
) -> list[str]:
    return [table(head, cells), *([""] if notes else []), *notes]


def _latex(head: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> list[str]:
    sides = "".join("r" if _numeric(column) else "l" for column in zip(*cells, strict=True))
    return [
        r"% \usepackage{booktabs}",
        *(f"% {note}" for note in notes),
        rf"\begin{{tabular}}{{{sides}}}",
        r"\toprule",
        _line(head),
        r"\midrule",
        *map(_line, cells),
        r"\bottomrule",
        r"\end{tabular}",
    ]


def _line(cells: Sequence[str]) -> str:
    return " & ".join("".join(LATEX.get(one, one) for one in cell) for cell in cells) + r" \\"


def _html(head: Sequence[str], cells: Sequence[Sequence[str]], notes: Sequence[str]) -> list[str]:
    def row(kind: str, line: Sequence[str]) -> str:
        return f"<tr>{''.join(f'<{kind}>{escape(cell)}</{kind}>' for cell in line)}</tr>"

    return [
        "<table>",
        *(f"<caption>{escape(' '.join(notes))}</caption>" for _ in notes[:1]),
        f"<thead>{row('th', head)}</thead>",
        "<tbody>",
        *(row("td", line) for line in cells),
        "</tbody>",
        "</table>",
    ]


def _numeric(column: Sequence[str]) -> bool:
    return all(_number(cell) is not None or cell == "–" for cell in column)


def _number(text: object) -> float | None:
    """The number that a value is, or with which its text begins, as in `8/255` or `0.51 [0.46,
    0.56]`; None if there is none, or if it is not finite.
    """
    if isinstance(text, bool) or text is None:
        return None
    try:
        return parse_number(text if isinstance(text, (int, float)) else str(text).split()[0])
    except (UserError, IndexError):
        return None


def _fits(found: object, sign: str, wanted: str) -> bool:
    if sign == "~":
        return found is not None and wanted.lower() in str(found).lower()
    one, other = _number(found), _number(wanted)
    if found is None:
        return sign == "!="
    if one is not None and other is not None and math.isclose(one, other):
        return sign in ("=", "<=", ">=")
    if one is None or other is None:
        return IS[sign](str(found).lower(), wanted.lower())
    return IS[sign](one, other)


def _key(found: object) -> tuple[bool, bool, float, str]:
    number = _number(found)
    return found in (None, ""), number is None, number or 0.0, str(found)


def _bare(name: str) -> str:
    """The name of a column in lower case, without what stands in square brackets."""
    return re.sub(r"\s*\[.*?\]", "", name).strip().lower()


def _found(name: str, head: Sequence[str], row: Row) -> object:
    """The value of a row in the column `name`: from its values for machines, else the text of its
    cell; None if there is neither, or if it is `–`.
    """
    facts, cells = _flat(row[0]), dict(zip(map(_bare, head), row[1], strict=True))
    value = facts.get(name.strip(), facts.get(_bare(name), cells.get(_bare(name))))
    return None if value == "–" else value


def _read(name: str, head: Sequence[str], row: Row) -> str:
    """The text of a row in the column `name`: its cell, else its value for machines, with four
    significant digits if that is a float; `–` if there is neither.
    """
    cells = dict(zip(map(_bare, head), row[1], strict=True))
    if _bare(name) in cells:
        return cells[_bare(name)]
    value = _flat(row[0]).get(name.strip())
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _check(names: Iterable[str], head: Sequence[str], rows: Sequence[Row]) -> None:
    known = dict.fromkeys(
        [*map(_bare, head), *(name for facts, _ in rows for name in _flat(facts))]
    )
    for name in names:
        if rows and name.strip() not in known and _bare(name) not in known:
            raise UserError(registry.unknown("column", name, known), code=2)


def _flat(facts: Mapping[str, object], before: str = "") -> dict[str, object]:
    """Nested facts as one value per column. A value inside a dictionary gets its path as name,
    joined by `_`; an interval becomes `…_low` and `…_high`; a list is joined by spaces; packed bits
    and lists of lists or dictionaries are left out.
    """
    flat: dict[str, object] = {}
    for name, value in facts.items():
        whole = f"{before}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{whole}_")
        elif name in PACKED:
            continue
        elif name.endswith("interval") and isinstance(value, Sequence) and len(value) == 2:
            stem = whole.removesuffix("interval")
            flat |= {f"{stem}low": value[0], f"{stem}high": value[1]}
        elif not isinstance(value, (list, tuple)):
            flat[whole] = value
        elif not any(isinstance(each, (Mapping, list, tuple)) for each in value):
            flat[whole] = " ".join(map(str, value))
    return flat


def safe(value: object) -> object:
    """`value`; a text that begins with =, +, - or @, which a spreadsheet would take for a formula,
    gets an apostrophe before it.
    """
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value
