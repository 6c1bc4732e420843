"""The command `figure`: a figure of one or more runs as a file for a paper, with its caption."""

import argparse
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from robustviz import registry
from robustviz.cli.terminal import Command, about, say, settings, show
from robustviz.runs import folder
from robustviz.runs.naming import labels
from robustviz.types import JSON, UserError
from robustviz.views.paper import FONT, PALETTES, caption, for_paper
from robustviz.views.pictures import SCALES, strip
from robustviz.views.printing import KINDS, check, fonts, printed
from robustviz.views.result import ProbeSpec, Result

IMAGES = "images"  # the name that gives pictures instead of a figure: one image clean and attacked
WIDTH, SIZE = "84mm", 8.0  # the usual width of a figure, and font size in points
Figure = Callable[..., Any]


def do(args: argparse.Namespace) -> int:
    """Measure what the figure shows, draw it, write it to a file, and print its caption. The figure
    `images` becomes several PNG files, one for each enlargement. Returns the exit status 0.
    """
    runs = [folder.open_run(name) for name in args.run]
    out = Path(args.out or f"{args.figure}.pdf")
    if args.figure == IMAGES:
        return _images(args, runs, out.with_suffix(".png") if not args.out else out)
    kind = out.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise UserError(
            f"--out is a name that ends in .{', .'.join(KINDS)}, and not {out.name!r}.", code=2
        )
    draw, results = _found(args.figure)
    spec, options = _settings(args, draw, results, runs)
    check()  # before measuring, which may take long
    found = _measured(runs, spec)
    several = _takes_several(draw)
    if len(found) > 1 and not several:
        raise UserError(f"The figure {args.figure} shows one network: give one run.", code=2)
    drawn = draw(found if several else next(iter(found.values())), **options)
    made = for_paper(
        drawn,
        args.width or WIDTH,
        height=args.height,
        font=args.font,
        size=args.size,
        palette=args.palette,
    )
    data = printed(made, kind)
    folder.write_file(out, data)
    held = fonts(data) if kind == "pdf" else []
    said = caption(made)
    facts: JSON = {"figure": args.figure, "out": str(out), "caption": said, "fonts": held}
    facts |= {"width_mm": round(made.layout.width * 25.4 / 96, 2)}
    facts |= {"height_mm": round(made.layout.height * 25.4 / 96, 2)}
    facts["runs"] = [about(run) for run in runs]
    if any(trace.type in ("surface", "scatter3d") for trace in made.data):
        say("A 3D surface is a bitmap in the file; --set kind=contour gives vector graphics.")
    lines = [said, f"type: {', '.join(held)}" if held else "", str(out)]
    return show(args, facts, "\n".join(filter(None, lines)))


def _images(args: argparse.Namespace, runs: list[folder.Run], out: Path) -> int:
    """Write a picture with one row for each network (the clean image, the attacked one and the
    perturbation) as PNG files, one for each enlargement in `SCALES`, and show their names. Returns
    the exit status 0.
    """
    if out.suffix.lower() != ".png":
        raise UserError(f"Pictures are written as .png, and not as {out.name!r}.", code=2)
    usual = {"width": "", "height": "", "font": FONT, "size": SIZE, "palette": "robustviz"}
    if given := [f"--{name}" for name, value in usual.items() if getattr(args, name) != value]:
        raise UserError(
            f"Pictures have their own sizes in pixels, so leave out {' and '.join(given)}; the"
            " figure adversarial has a width in mm.",
            code=2,
        )
    spec, _ = _settings(args, None, (registry.get("probe", "adversarial").result,), runs)
    found = _measured(runs, spec)
    files = {scale: out.with_stem(out.stem + f"-x{scale}" * (scale > 1)) for scale in SCALES}
    for scale, file in files.items():
        folder.write_file(file, strip(found.values(), scale))
    named = [str(file) for file in files.values()]
    said = "; ".join(f"{name}: {result.meta['summary']}" for name, result in found.items())
    facts: JSON = {"figure": IMAGES, "out": named, "caption": said}
    facts["runs"] = [about(run) for run in runs]
    return show(args, facts, "\n".join([said, *named]))


def _found(name: str) -> tuple[Figure, tuple[type[Result], ...]]:
    """The function that draws the figure called `name`, and the types of results that it draws.

    The name of a page stands for the figure of the same name, or if there is none, for the page's
    first figure. Raises UserError if there is no such figure.
    """
    from robustviz import figures

    known = _known()
    pages = {  # the first figure of each page: it comes last here, and so replaces the others
        each.__module__.split(".")[2]: each
        for each in reversed(known.values())
        if each.__module__.startswith("robustviz.views.")
    }
    draw = known.get(name) or pages.get(name)
    if draw is None and not name.startswith("_"):
        draw = getattr(figures, name, None)
    results = tuple(_results(draw)) if callable(draw) else ()
    if not callable(draw) or not results:
        raise UserError(
            f"There is no figure {name!r}; there are {IMAGES}, {', '.join(sorted(known))}; a page's"
            f" name gives its first figure: {', '.join(sorted({*pages} - {*known}))}.",
            code=2,
        )
    return draw, results


def _known() -> dict[str, Figure]:
    """The figures that draw the result of a probe, as functions by name: robustviz's own, and those
    of loaded plug-ins.
    """
    from robustviz import figures, plugins

    asked = {registry.get("probe", key).result for key in registry.keys("probe")}
    return {
        name: each
        for name, each in {**vars(figures), **plugins.figures()}.items()
        if inspect.isfunction(each) and not name.startswith("_") and {*_results(each)} & asked
    }


def _results(draw: Figure) -> Iterator[type[Result]]:
    """The types of results that a figure draws, from the annotation of its first argument."""
    hints = _hints(draw)
    first = next(iter(inspect.signature(draw).parameters), "")
    todo = [hints.get(first)]
    while todo:
        each = todo.pop(0)
        if typing.get_origin(each) is not None or isinstance(each, types.UnionType):
            todo += typing.get_args(each)
        elif isinstance(each, type) and issubclass(each, Result) and each is not Result:
            yield each


def _hints(draw: Figure) -> dict[str, typing.Any]:
    """The types of a figure's arguments. The return annotation is left out: a plug-in that imports
    Plotly only when it draws cannot resolve it.
    """
    asked = {name: hint for name, hint in draw.__annotations__.items() if name != "return"}
    return typing.get_type_hints(types.SimpleNamespace(__annotations__=asked), draw.__globals__)


def _takes_several(draw: Figure) -> bool:
    return "Mapping" in str(next(iter(_hints(draw).values())))


def _settings(
    args: argparse.Namespace,
    draw: Figure | None,
    results: tuple[type[Result], ...],
    runs: list[folder.Run],
) -> tuple[ProbeSpec[Result], dict[str, Any]]:
    """The spec of the measurement to make, and the keyword arguments of the figure, both with the
    values that `--set` gives. `draw`: the figure's function; None: the figure `images`. `results`:
    the types of results that it draws.

    Without a value of its own, a setting `reference` becomes the first of several runs, and a
    figure's required argument `eps` the first run's ε. Raises UserError for a setting that neither
    spec nor figure has, and if no probe gives such a result.
    """
    from robustviz.training.config import read_value

    keys = [key for key in registry.keys("probe") if registry.get("probe", key).result in results]
    if not keys:
        raise UserError(f"No probe gives what the figure {args.figure} draws.", code=2)
    spec: ProbeSpec[Result] = registry.get(
        "probe", args.figure if args.figure in keys else keys[0]
    )()
    own = dict(list(inspect.signature(draw).parameters.items())[1:]) if draw else {}
    own.pop("template", None)
    fields = {*registry.encode(spec)} - {"key"}
    options: dict[str, Any] = {}
    for path, text in args.set:
        if path in own and path not in fields:
            options[path] = text if isinstance(own[path].default, str) else read_value(text)
            continue
        if path.partition(".")[0] not in fields:
            raise UserError(
                f"There is no setting {path!r}; there are {', '.join(sorted(fields | {*own}))}.",
                code=2,
            )
        value = text if registry.is_text(spec, path) else read_value(text)
        spec = registry.with_value(spec, path, value)
    if "reference" in fields and not getattr(spec, "reference", "") and len(runs) > 1:
        # all networks are drawn in the plane of the first one
        spec = registry.with_value(spec, "reference", runs[0].id)
    if "eps" in own and own["eps"].default is inspect.Parameter.empty:
        options.setdefault("eps", runs[0].eps)
    return spec, options


def _measured(runs: list[folder.Run], spec: ProbeSpec[Result]) -> Mapping[str, Result]:
    """The result of the probe of `spec` for each run, by the label that the figure prints for the
    run. With several runs the labels begin with A, B and so on. Raises UserError for more than 26.
    """
    from robustviz.views.measure import measure

    names = labels(runs)
    if len(runs) > 1:
        if len(runs) > len(ascii_uppercase):
            raise UserError(
                f"A figure draws at most {len(ascii_uppercase)} networks, and got {len(runs)}:"
                " choose fewer.",
                code=2,
            )
        names = [f"{letter} {name}" for letter, name in zip(ascii_uppercase, names, strict=False)]
    return {name: measure(run, spec) for name, run in zip(names, runs, strict=True)}


COMMANDS = (
    Command(
        "figure",
        do,
        "draw a figure of runs as a file for a paper, and print its caption",
        {
            "run": {"metavar": "RUN", "nargs": "+"},
            "figure": {
                "metavar": "FIGURE",
                "help": "features, accuracy_curve, feature_map … (a wrong name lists all), or"
                " images: one image untouched, attacked and what was added",
            },
            "--out": {
                "metavar": "FILE.pdf",
                "help": "the ending says which: .pdf, .svg, .png (600 dots an inch)",
            },
            "--width": {
                "default": "",
                "help": f"as 84mm, 17.4cm, 3.3in or 240pt (default: {WIDTH})",
            },
            "--height": {"default": "", "help": "as --width (default: what the contents need)"},
            "--font": {"default": FONT, "help": "a font of this computer, as 'Times New Roman'"},
            "--size": {"type": float, "default": SIZE, "help": "font size in points"},
            "--palette": {"default": "robustviz", "choices": list(PALETTES)},
            **settings(
                "NAME=VALUE", "any setting of the probe or option of the figure, like n=100"
            ),
        },
    ),
)
