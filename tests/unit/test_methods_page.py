"""Tests docs/methods.md: its golden numbers equal what the code computes, and every file that a
text of the repository names exists.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustviz import cam, losses, measures

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "methods.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^#+ (.+)$", PAGE, re.MULTILINE)

Z = torch.tensor([[2.0, 0.0, -1.0], [0.5, 1.0, 0.0]], dtype=torch.float64)
Z_ADV = torch.tensor([[1.0, 0.5, -1.0], [0.5, -0.5, 0.5]], dtype=torch.float64)
Y = torch.tensor([0, 1])
G4_Y, LONE = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 1])
ROW = torch.tensor([[3.0, 1.0, 0.5, -1.0]], dtype=torch.float64)
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])


def at(*degrees: float) -> Tensor:
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


G4, MOVED = at(0, 60, 90, 180), at(20, 50, 100, 150)


def alp(weight: Tensor | None = None) -> Tensor:
    both = F.cross_entropy(torch.cat([Z, Z_ADV]), Y.repeat(2))
    return both + 0.5 * losses.logit_pairing(Z, Z_ADV, weight)


def own(logits: Tensor) -> Tensor:
    return logits.softmax(1).gather(1, Y[:, None])[:, 0]


def important(rule: str) -> Tensor:
    far = (torch.arange(4, dtype=torch.float64) - 1.5) ** 2
    return cam.importance_mask((-(far[:, None] + far)).exp()[None], rule, (32, 32)).sum()


def afa(anchors: Tensor, temperature: float) -> Tensor:
    return losses.adversarial_contrastive(anchors, G4_Y, G4, G4_Y, temperature)


COMPUTED: dict[str, Callable[[], Tensor | float]] = {
    "cross-entropy of z": lambda: F.cross_entropy(Z, Y),
    "cross-entropy of z'": lambda: F.cross_entropy(Z_ADV, Y),
    "KL(p ‖ p')": lambda: losses.kl(Z, Z_ADV),
    "KL(p' ‖ p), T = 1, witness z' and source z": lambda: losses.kl(Z_ADV, Z),
    "T²·KL(p' ‖ p), T = 4": lambda: losses.kl(Z_ADV, Z, 4.0),
    "TRADES, β = 6": lambda: losses.trades(Z, Z_ADV, Y, 6),
    "MART's BCE": lambda: losses.boosted_ce(Z_ADV, Y),
    "MART's weighted KL": lambda: losses.misclassification_kl(Z, Z_ADV, Y),
    "MART, β = 5": lambda: losses.mart(Z, Z_ADV, Y, 5),
    "MART, β = 6": lambda: losses.mart(Z, Z_ADV, Y, 6),
    "logit pairing, mean over images and classes": lambda: losses.logit_pairing(Z, Z_ADV),
    "ALP, λ = .5": alp,
    "AALP without dropout, w = p(y | x')": lambda: alp(own(Z_ADV)),
    "AALP without dropout, w = p(y | x)": lambda: alp(own(Z)),
    "DLR of [3, 1, .5, −1], y = 0": lambda: losses.dlr(ROW, FIRST),
    "DLR of [3, 1, .5, −1], y = 1": lambda: losses.dlr(ROW, SECOND),
    "targeted DLR of [3, 1, .5, −1], y = 0, t = 1": lambda: losses.dlr(ROW, FIRST, SECOND),
    "SupCon on G4, τ = .5": lambda: losses.supcon(G4, G4_Y, 0.5),
    "SupCon on G4, τ = .1": lambda: losses.supcon(G4, G4_Y, 0.1),
    "SupCon on G4, τ = .1, base .07 as SupContrast": lambda: losses.supcon(G4, G4_Y, 0.1, 0.07),
    "SupCon on G4, labels 0 0 0 1, τ = .5": lambda: losses.supcon(G4, LONE, 0.5),
    "margin on G4, m = 1, balanced": lambda: losses.margin_contrastive(G4, G4_Y, 1),
    "margin on G4, m = 1, flat": lambda: losses.margin_contrastive(G4, G4_Y, 1, "flat"),
    "AFA, anchors against G4, τ = .5": lambda: afa(MOVED, 0.5),
    "AFA, anchors against G4, τ = .1": lambda: afa(MOVED, 0.1),
    "AFA, unmoved anchors, τ = .5": lambda: afa(G4, 0.5),
    "alignment of G4": lambda: measures.alignment(G4, G4_Y),
    "uniformity of G4": lambda: measures.uniformity(G4),
    "silhouette of G4": lambda: measures.silhouette(G4, G4_Y),
    "Davies–Bouldin of G4": lambda: measures.davies_bouldin(G4, G4_Y),
    "pixels above z > 1 of the bump exp(−((r−1.5)² + (c−1.5)²)), 4×4 to 32²": (
        lambda: important("z>1")
    ),
    "pixels above z > 0 of the same bump": lambda: important("z>0"),
}


def table() -> dict[str, tuple[str, str]]:
    """Returns the rows of the page's golden numbers: value and test file by name."""
    part = PAGE.split("\n## Golden numbers\n")[1].split("\n## ")[0]
    rows = (
        [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in part.splitlines()
        if line.startswith("|")
    )
    return {name: (value, test) for name, value, test in list(rows)[2:]}


def test_the_page_and_this_test_hold_the_same_golden_numbers() -> None:
    assert list(table()) == list(COMPUTED)


@pytest.mark.parametrize("name", COMPUTED)
def test_the_page_s_golden_numbers_are_what_the_code_computes(name: str) -> None:
    value, test = table()[name]
    assert float(COMPUTED[name]()) == pytest.approx(float(value), abs=1e-6)
    found = (REPOSITORY / "tests" / "golden" / test.split(",")[0]).read_text(encoding="utf-8")
    # The value may stand in the test without trailing zeros.
    assert any(number in found for number in (value, value.rstrip("0").rstrip(".")))


def texts() -> Iterator[tuple[str, str]]:
    """Yields every text of the repository that people read, as path and text with joined lines."""
    for pattern in ("robustviz/**/*.py", "pages/*.py", "tests/**/*.py", "benchmarks/*.py"):
        yield from _read(pattern)
    for pattern in ("notebooks/*.ipynb", "docs/*.md", "docs/*.toml", "*.md", "*.py", "*.toml"):
        yield from _read(pattern)
    yield from _read("Makefile")


def _read(pattern: str) -> Iterator[tuple[str, str]]:
    for path in sorted(REPOSITORY.glob(pattern)):
        # A sentence may continue in the next line, or in the next string of an expression.
        words = re.sub(r'\s*"?\n\s*(#|f?")?\s*', " ", path.read_text(encoding="utf-8"))
        yield path.relative_to(REPOSITORY).as_posix(), words


def strange(path: str, text: str) -> Iterator[str]:
    """Yields the files and headings that a text names but that do not exist."""
    for folder, name in re.findall(r"((?:[\w.]+/)*)([\w-]+\.md)\b", text):
        beside = f"{Path(path).parent.as_posix()}/{folder}"
        places = (folder, beside) if folder else ("", "docs", "benchmarks")
        if not any((REPOSITORY / place / name).exists() for place in places):
            yield f"{path}: {folder}{name}"
        if name == "methods.md" and not (folder or path.startswith("docs/")):
            yield f"{path}: methods.md without its folder"
    for heading in re.findall(r"docs/methods\.md, ([A-Z][^.;:,()]*)", text):
        if not any(heading.startswith(each) for each in HEADINGS):
            yield f"{path}: no heading {heading} in docs/methods.md"
    # Such folders exist only outside the repository. Only the tests' images may lie there.
    for rest in re.findall(r"\bshared/(\w*)", text):
        if rest != "data":
            yield f"{path}: shared/{rest} is no file of the repository"


@pytest.mark.long
def test_every_document_that_a_text_names_is_there_with_its_heading() -> None:
    here = "tests/unit/test_methods_page.py"
    found = [each for path, text in texts() if path != here for each in strange(path, text)]
    assert found == []
