"""Which image belongs to which split. One seeded permutation per question, always on the CPU, so
that the same image is in the same split on every machine, in every process and for every method
that is compared.
"""

from __future__ import annotations

import torch

from robustviz.types import UserError

SPLITS = ("train", "val", "test")


def check_split(split: str) -> str:
    """The split's name, if it is one. Raises UserError otherwise."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}: write one of train, val, test.")
    return split


def stratified_order(y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(N,) int64 permutation of the positions of `y` (N,), in which every beginning is balanced.

    The classes take turns, in random order within a turn, so in the first n the counts of two
    classes differ by at most one as long as neither has run out. The first 50 are the beginning of
    the first 100.
    """
    n = len(y)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    labels = y.to("cpu", torch.int64)[shuffled]
    by_class = torch.argsort(labels, stable=True)
    sizes = torch.unique_consecutive(labels[by_class], return_counts=True)[1]
    turn = torch.empty(n, dtype=torch.int64)
    turn[by_class] = torch.arange(n) - (torch.cumsum(sizes, 0) - sizes).repeat_interleave(sizes)
    return shuffled[torch.argsort(turn, stable=True)]


def stratified_split(
    y: torch.Tensor, count: int, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rest, held out): positions of `y` (N,), both int64 and ascending, `count` of them held out.

    Each class gives its share of `count`, rounded by the largest remainder; within a class a seeded
    shuffle decides, and its last ones are held out.
    """
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    labels = y.to("cpu", torch.int64)[shuffled]
    classes, sizes = torch.unique(labels, return_counts=True)
    quota = sizes.double() * count / max(len(y), 1)
    give = quota.floor().long()
    # ties go to the first class: a stable sort, so that no machine decides otherwise
    order = torch.argsort(quota - give, descending=True, stable=True)
    give[order[: count - int(give.sum())]] += 1
    out = torch.zeros(len(y), dtype=torch.bool)
    for c, m, g in zip(classes, sizes, give, strict=True):
        out[shuffled[labels == c][int(m) - int(g) :]] = True
    return torch.nonzero(~out).flatten(), torch.nonzero(out).flatten()


def train_and_val(y: torch.Tensor, split: str) -> torch.Tensor:
    """Positions of `split` (train or val) in an official training set: val is the last 10 % of a
    seeded shuffle.
    """
    train, val = stratified_split(y, round(len(y) / 10))
    return val if split == "val" else train


def official(y: torch.Tensor, split: str, n: int | None) -> torch.Tensor:
    """Positions, (M,) int64, of `split` in the official file that has it: the training file for
    train and val, else the test file.

    val is the last 10 % of a seeded shuffle of the training file; `n` limits train to a balanced
    beginning.
    """
    if split == "test":
        return torch.arange(len(y))
    where = train_and_val(y, split)
    return first(y, where, n) if split == "train" else where


def first(y: torch.Tensor, where: torch.Tensor, n: int | None) -> torch.Tensor:
    """The first `n` positions of `where` in the stratified order of their labels; None: all, as
    they are.
    """
    return where if n is None or n >= len(where) else where[stratified_order(y[where])[:n]]


def by_content(hashes: list[str], labels: list[int]) -> tuple[list[int], list[int]]:
    """(for each file 0, 1 or 2: train, val or test; the classes with too few different files to be
    in all three).

    A hash is a uniform number: below .7 is train, below .8 val, else test, so a file's split
    follows its content alone. Only where that leaves a split of a class empty, the fullest split of
    this class gives its files of lowest hash; files of equal content go together. A class of two
    has one in train and one in test, a class of one has it in train.
    """
    share = {text: int(text[:13], 16) / 16**13 for text in hashes}
    place = {text: 0 if u < 0.7 else 1 if u < 0.8 else 2 for text, u in share.items()}
    small = []
    for label in sorted(set(labels)):
        mine = sorted({text for text, y in zip(hashes, labels, strict=True) if y == label})
        wanted = (0, 2, 1)[: len(mine)]
        if len(mine) < 3:
            small.append(label)
        for target in wanted:
            filled = [[text for text in mine if place[text] == s] for s in range(3)]
            if not filled[target]:
                # a split that is not wanted gives first, else the fullest
                giver = max(
                    range(3), key=lambda s: (bool(filled[s]) and s not in wanted, len(filled[s]))
                )
                place[filled[giver][0]] = target
    return [place[text] for text in hashes], small
