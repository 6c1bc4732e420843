"""Which image belongs to which split. The permutations have fixed seeds and are computed on the
CPU, so that an image is in the same split on every machine, in every process and for every method
that is compared.
"""

from __future__ import annotations

from collections import Counter

import torch

from robustviz.types import UserError

SPLITS = ("train", "val", "test")


def check_split(split: str) -> str:
    """Returns `split` if it is train, val or test. Raises UserError otherwise."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r}: write one of train, val, test.")
    return split


def stratified_order(y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A random permutation (N,) of the indices of the labels `y` (N,), class-balanced; int64, on
    the CPU.

    The classes take turns, in random order within a turn: among the first n indices, whatever n is,
    the counts of two classes differ by at most one until one of them has no images left.
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
    """Split the indices of the labels `y` (N,) into (rest, held out), `count` of them held out.

    Both are int64 and ascending. Each class gives its proportional share of `count`, rounded by the
    method of the largest remainder. Within a class, the images that come last in a shuffle with
    seed `seed` are held out.
    """
    shuffled = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    labels = y.to("cpu", torch.int64)[shuffled]
    classes, sizes = torch.unique(labels, return_counts=True)
    quota = sizes.double() * count / max(len(y), 1)
    give = quota.floor().long()
    # a stable sort, so that a tie goes to the first class on every machine
    order = torch.argsort(quota - give, descending=True, stable=True)
    give[order[: count - int(give.sum())]] += 1
    out = torch.zeros(len(y), dtype=torch.bool)
    for c, m, g in zip(classes, sizes, give, strict=True):
        out[shuffled[labels == c][int(m) - int(g) :]] = True
    return torch.nonzero(~out).flatten(), torch.nonzero(out).flatten()


def train_and_val(y: torch.Tensor, split: str) -> torch.Tensor:
    """The indices of `split` (train or val) in a training set with labels `y` (N,), ascending.

    val is the last 10% of a seeded shuffle within each class, train all else.
    """
    train, val = stratified_split(y, round(len(y) / 10))
    return val if split == "val" else train


def official(y: torch.Tensor, split: str, n: int | None) -> torch.Tensor:
    """The indices (M,) int64 of `split` in its official part with labels `y` (N,).

    This is the training part for train and val, and the test part for test. val is the last 10% of
    a seeded shuffle of each class in the training part; `n` limits train to its first `n` in
    class-balanced order.
    """
    if split == "test":
        return torch.arange(len(y))
    where = train_and_val(y, split)
    return first(y, where, n) if split == "train" else where


def first(y: torch.Tensor, where: torch.Tensor, n: int | None) -> torch.Tensor:
    """The first `n` of the indices `where` in the class-balanced order of their labels in `y`.

    If `n` is None or not below their number, `where` is returned as it is.
    """
    return where if n is None or n >= len(where) else where[stratified_order(y[where])[:n]]


def by_content(hashes: list[str], labels: list[int]) -> tuple[list[int], list[int]]:
    """The split of each file, chosen by the hash of its content.

    Returns two lists: for each file, 0, 1 or 2 for train, val or test; and the labels of the
    classes that have files in fewer than three splits, because they have too few different files.

    `hashes` are hexadecimal. A hash is used as a uniform number in [0, 1): below .7 the file is in
    train, below .8 in val, else in test, so its split depends on its content alone. Files of equal
    content are always in the same split. If this leaves a split of a class empty, one file is moved
    there from the largest split of the class: the one with the lowest hash, preferably one that no
    other class has. A class with two different files has one in train and one in test, a class with
    one has it in train, unless such a file is in another class too.
    """
    share = {text: int(text[:13], 16) / 16**13 for text in hashes}
    place = {text: 0 if u < 0.7 else 1 if u < 0.8 else 2 for text, u in share.items()}
    classes_of = Counter(text for text, _ in {*zip(hashes, labels, strict=True)})
    of_class = {
        label: sorted(
            {text for text, y in zip(hashes, labels, strict=True) if y == label},
            key=lambda text: (classes_of[text] > 1, text),
        )
        for label in sorted(set(labels))
    }
    for mine in of_class.values():
        wanted = (0, 2, 1)[: len(mine)]
        for target in wanted:
            filled = [[text for text in mine if place[text] == s] for s in range(3)]
            if not filled[target]:
                # take from a split that this class should not have, else from the largest
                giver = max(
                    range(3), key=lambda s: (bool(filled[s]) and s not in wanted, len(filled[s]))
                )
                place[filled[giver][0]] = target
    small = [label for label, mine in of_class.items() if len({place[text] for text in mine}) < 3]
    return [place[text] for text in hashes], small
