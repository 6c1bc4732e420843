"""The first screen of the Transfer page, without torch or Streamlit: the share of the images
attacked on A that fools each network.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from robustviz.stats import mcnemar, tango, wilson
from robustviz.training.evaluation import attack_name
from robustviz.types import JSON, eps_text
from robustviz.views.screen import Control, Screen
from robustviz.views.transfer.result import Fooled

NAMES = {"cnn": "CNN", "vit": "ViT", "resnet": "ResNet"}
LEARNED = {"witness_soft": "soft labels", "witness_hard": "hard labels", "label": "true labels"}
OTHERS = 3  # networks of another architecture at most
STYLE = """<style>
.fooled { display: grid; grid-template-columns: minmax(6rem, 13rem) 1fr minmax(6.5rem, 12rem);
  column-gap: 1rem; font-size: 1.05rem; }
.fooled > * { border-bottom: 1px solid var(--grid); padding: .5rem 0; min-height: 3.9rem;
  box-sizing: border-box; display: flex; flex-direction: column; justify-content: center; }
.fooled b { font-weight: 600; }
.fooled small { font-size: .9rem; }
.fooled .track { position: relative; border-left: 2px solid var(--faint); }
.fooled i { position: absolute; top: 20%; bottom: 20%; background: currentColor;
  transition: left .6s, width .6s; }
.fooled .solid { left: 0; width: var(--k); }
.fooled .pale { left: var(--k); width: var(--p); opacity: .28; }
.fooled .whisker { left: var(--l); width: var(--w); top: calc(50% - 1px);
  bottom: calc(50% - 2px); background: var(--text); outline: 1px solid var(--paper); }
.fooled .ends { min-height: 0; padding: .3rem 0; border: 0; font-size: .9rem;
  flex-direction: row; justify-content: space-between; }
@container (max-width: 40rem) {
  .fooled { grid-template-columns: 1fr auto; grid-auto-flow: row dense; }
  .fooled > b, .fooled > span { min-height: 2.2rem; border: 0; padding: .3rem 0 0; }
  .fooled .track, .fooled .ends { grid-column: 1 / -1; }
  .fooled .ends:empty { display: none; }
}
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; font-size: .95rem; }
.key i { display: inline-block; width: 1.1rem; height: .8rem; background: var(--faint);
  margin-right: .4rem; }
</style>"""
KEY = (
    '<p class="key"><span><i></i>right untouched, fooled by the attack</span>'
    '<span><i style="opacity:.28"></i>misclassified even untouched</span>'
    '<span><i style="height:3px;vertical-align:.25rem"></i>95% interval</span></p>'
)


class Target(NamedTuple):
    """A network that is shown the images: its `name` beside the bar, the name `said` in a sentence,
    its run id (empty: the network on which the images were attacked), and the colour of its bar.
    """

    name: str
    said: str
    run: str = ""
    colour: str = "faint"


def targets(result: Fooled, b: str = "", b_name: str = "B") -> list[Target]:
    """The networks with a bar, in this order: the source itself, a twin if there is one (the same
    training with another seed), up to three networks of other architectures trained without a
    defence, and B (run id `b`), if it was shown the images and is not the source.
    """
    shown = dict(zip(result.models, result.meta["shown"], strict=True))
    me = shown[result.models[0]]
    twins, others = list[Target](), list[Target]()
    for run, each in shown.items():
        if run in (result.models[0], b):
            continue
        name = f"{network(each['net'])}, seed {each['seed']}"
        if all(each[key] == me[key] for key in ("method", "net", "settings", "target")):
            twins.append(Target(f"A's twin, seed {each['seed']}", "its twin", run))
        elif each["ordinary"] and each["net"] != me["net"]:
            others.append(Target(name, f"a {network(each['net'])}", run))
    last = [Target(b_name, "B", b, "b")] if b in shown and b != result.models[0] else []
    return [Target("A itself", "A", "", "a"), *twins[:1], *others[:OTHERS], *last]


def network(key: str) -> str:
    """An architecture in words: `small CNN`."""
    return " ".join(NAMES.get(word, word) for word in key.split("_"))


def screen(result: Fooled, a: str, bars: Sequence[Target]) -> Screen:
    """Draw the first screen: the bars, and if there is an aligned copy, a control that switches
    between before and after A learned from a witness. `a`: the run id of A, which is the source or
    one of its copies; `bars`: from `targets`.
    """
    after = pupil(result, a)
    sources = [result.sources[0], *filter(None, [after])]
    learned = _learned(result, after)
    rows, moves = list[str](), dict[str, tuple[str, Sequence[str]]]()
    for at, bar in enumerate(bars):
        rows.append(_row(result, bar, sources[0], at))
        moves[f"bar{at}"] = ("style", [_bar(result, bar, source) for source in sources])
        moves[f"share{at}"] = ("text", [_share(result, bar, source) for source in sources])
        moves[f"change{at}"] = ("text", ["", *(change(result, bar, one) for one in sources[1:])])
    picture = (
        f'{STYLE}<div class="fooled">{"".join(rows)}<span class="ends"></span>'
        '<span class="ends"><span>0%</span><span>50%</span><span>100%</span></span>'
        f'<span class="ends"></span></div>{KEY}'
    )
    answer = [_answer(result, bars, source, "Images attacked on A") for source in sources[:1]]
    if after:
        before = f"Before {learned}, images attacked on A" if a == after else "Images attacked on A"
        answer = [
            _answer(result, bars, sources[0], before),
            _answer(result, bars, after, f"After {learned}, images attacked on A"),
        ]
    names = ", ".join(bar.name for bar in bars)
    return Screen(
        answer,
        picture,
        f"Bars: the share of all attacked images that fool each of these: {names}. {answer[0]}",
        _sure(result, bars, after),
        Control(
            f"A before or after fine-tuning to {learned}",
            ("before", "after"),
            int(a == after),
            "alignment",
            "Model alignment: a copy of A is fine-tuned to the outputs of another network, the"
            " witness.",
        )
        if after
        else None,
        moves if after else {},
    )


def pupil(result: Fooled, a: str) -> str:
    """The run id of the aligned copy that is compared with the source: A if it is a copy, else the
    one that learned soft labels; empty if there is none.
    """
    shown = dict(zip(result.models, result.meta["shown"], strict=True))
    copies = result.sources[1:]
    soft = (run for run in copies if shown[run]["target"] == "witness_soft")
    return a if a in copies else next(soft, "")


def _learned(result: Fooled, run: str) -> str:
    """What the aligned copy with this run id learned, in words; soft labels without a copy."""
    shown = dict(zip(result.models, result.meta["shown"], strict=True))
    return LEARNED.get(shown[run]["target"], "soft labels") if run else "soft labels"


def counts(result: Fooled, bar: Target, source: str) -> tuple[int, int]:
    """How many images attacked on `source` fool a target, and how many clean images the target
    misclassifies. For the bar without a run id, the target is `source` itself.
    """
    run = bar.run or source
    return int(result.fooled(run, source).sum()), int(result.misread(run).sum())


def moved(result: Fooled, bar: Target, after: str) -> tuple[float, float, float, float]:
    """By how much the share of images that fool a target grows if they are attacked on the copy
    `after` instead of on the source: the difference as a fraction, its 95% interval (Tango), and
    McNemar's p-value. If `bar` is the source itself, the source attacked on itself is compared
    with the copy attacked on itself.
    """
    before = result.sources[0]
    more, fewer = result.moved(((bar.run or before, before), (bar.run or after, after)))
    low, high = tango(more, fewer, result.n)
    return (more - fewer) / result.n, low, high, mcnemar(more, fewer)


def change(result: Fooled, bar: Target, after: str) -> str:
    """The change from `moved`, in words: `+6 points`, or `no difference shown` if its interval
    contains 0 or it rounds to 0.
    """
    difference, low, high, _ = moved(result, bar, after)
    shown = (low > 0 or high < 0) and round(100 * difference)
    return f"{100 * difference:+.0f} points".replace("-", "−") if shown else "no difference shown"


def _share(result: Fooled, bar: Target, source: str) -> str:
    return f"{counts(result, bar, source)[0] / result.n:.0%}"


def _bar(result: Fooled, bar: Target, source: str) -> str:
    """A bar's lengths as CSS variables: shares fooled and misclassified clean, and the whisker."""
    k, misread = counts(result, bar, source)
    low, high = wilson(k, result.n)
    lengths = {"k": k / result.n, "p": misread / result.n, "l": low, "w": high - low}
    return ";".join(f"--{name}:{100 * value:.2f}%" for name, value in lengths.items())


def _row(result: Fooled, bar: Target, source: str, at: int) -> str:
    return (
        f'<b class="{bar.colour.replace("faint", "")}">{escape(bar.name)}</b>'
        f'<span class="track {bar.colour}" data-move="bar{at}" style="{_bar(result, bar, source)}">'
        '<i class="solid"></i><i class="pale"></i><i class="whisker"></i></span>'
        f'<span class="told"><b data-move="share{at}">{_share(result, bar, source)}</b>'
        f'<small data-move="change{at}"></small></span>'
    )


def _answer(result: Fooled, bars: Sequence[Target], source: str, who: str) -> str:
    """One sentence: how often the source itself, the first network after it that is not B, and the
    network of the last bar (B, if it has a bar) are fooled.
    """
    own, *rest = bars
    told = [own, *[bar for bar in rest if bar.colour != "b"][:1], *rest[-1:]]
    told = list(dict.fromkeys(told))[:3]
    said = [f"{bar.said} on {_share(result, bar, source)}" for bar in told]
    return f"{who} fool {', '.join(said)}."


def _sure(result: Fooled, bars: Sequence[Target], after: str) -> list[str]:
    meta: JSON = result.meta
    shown = dict(zip(result.models, meta["shown"], strict=True))
    seen = result.n if result.n == meta["of"] else f"{result.n} of {meta['of']}"
    out = [
        "Each bar is one network with one training seed: other seeds can give other results.",
        "All images count: those that a network misclassifies untouched are pale, not fooled.",
        f"n = {seen} test images, attacked with {attack_name(meta['attack'])}.",
        f"ε = {eps_text(meta['eps'])}, noise of seed {meta['seed']}; whiskers are Wilson's.",
    ]
    if not any(bar.said == "its twin" for bar in bars):
        out.append("No twin is shown, because no network like A with another seed is shipped.")
    if not after:
        out.append(
            "There is no copy of A fine-tuned to soft labels yet: train one on the Train page."
        )
        return out
    witness = shown.get(str(meta.get("witness", {}).get(after, "")))
    if witness:
        out.append(
            f"The copy learned {_learned(result, after)} from a {network(witness['net'])}, seed"
            f" {witness['seed']}: the witness, which has no bar."
        )
    for bar in bars:
        difference, low, high, p = moved(result, bar, after)
        points = [f"{100 * value:+.1f}".replace("-", "−") for value in (difference, low, high)]
        small = "< 0.001" if p < 0.001 else f"= {p:.2g}"
        out += [
            f"{bar.name}: {points[0]} percentage points after alignment, interval {points[1]} to"
            f" {points[2]}.",
            f"{bar.name}: McNemar's p {small}, on the same images.",
        ]
    return [*out, "Intervals are 95% intervals; those of changes are Tango's, for paired data."]
