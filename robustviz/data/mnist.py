"""MNIST: handwritten digits of 28x28 pixels. It is easy, so attacks usually have a radius of .3."""

from __future__ import annotations

from dataclasses import dataclass

from robustviz.data.idx import Idx
from robustviz.data.published import laptop
from robustviz.registry import register

MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
PACKED = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9_912_422),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", 28_881),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", 1_648_877),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", 4_542),
}


@register("data/mnist")
@dataclass(frozen=True)
class MNIST(Idx):
    """60,000 training and 10,000 test pictures of handwritten digits, grey, 1x28x28.

    Source: LeCun, Cortes, Burges, yann.lecun.com/exdb/mnist.
    """

    label = "MNIST"
    default_eps = 0.3
    recipe = laptop("none")
    classes = tuple("0123456789")
    archive = "MNIST"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    md5 = MD5
    packed = PACKED
