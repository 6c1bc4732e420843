"""Fashion-MNIST: pictures of clothes in the format and size of MNIST, but harder, so that methods
can be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from robustviz.data.idx import Idx
from robustviz.data.published import laptop
from robustviz.registry import register

MD5 = {
    "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
    "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
    "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
}
PACKED = {
    "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26_421_880),
    "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", 29_515),
    "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", 4_422_102),
    "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", 5_148),
}


@register("data/fashion_mnist")
@dataclass(frozen=True)
class FashionMNIST(Idx):
    """60,000 training and 10,000 test pictures of clothes, 10 classes, grey, 1x28x28.

    Source: Xiao et al. 2017, arXiv 1708.07747.
    """

    label = "Fashion-MNIST"
    default_eps = 0.1
    recipe = laptop("none")
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    archive = "FashionMNIST"
    url = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    md5 = MD5
    packed = PACKED
