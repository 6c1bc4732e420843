"""The network architectures, one file each.
`build(key, …)` makes a network; `frozen(net)` is a context that turns off training mode and the
gradients of parameters.
"""

from robustviz import registry
from robustviz.nets.base import (
    Classifier as Classifier,
    Parts as Parts,
    PerChannel,
    frozen as frozen,
)
from robustviz.nets.wrapped import Wrapped as Wrapped, wrap as wrap
from robustviz.types import UserError

# isort: off
from robustviz.nets.small_resnet import SmallResNet as SmallResNet, SmallResNet8x8 as SmallResNet8x8
from robustviz.nets.small_cnn import SmallCNN as SmallCNN
from robustviz.nets.tiny_vit import TinyViT as TinyViT
from robustviz.nets.resnet18 import ResNet18 as ResNet18
from robustviz.nets.preact_resnet18 import PreActResNet18 as PreActResNet18
from robustviz.nets.vgg11_bn import VGG11BN as VGG11BN
from robustviz.nets.wrn_34_10 import WideResNet3410 as WideResNet3410
from robustviz.nets.imported import Imported as Imported

# isort: on


def build(
    key: str,
    classes: int,
    channels: int = 3,
    size: int = 32,
    mean: PerChannel = None,
    std: PerChannel = None,
) -> Classifier:
    """A new network with weights drawn from torch's global generator.

    `key`: a registered architecture; `size`: side of the images in pixels; `mean`, `std`: a number
    per channel for images in [0, 1], None for no normalisation. Raises UserError for an unknown
    key, for fewer than 2 classes, and for images below 8 pixels, which are too small for every
    architecture here.
    """
    if size < 8:
        raise UserError(
            f"Images of {size} pixels are too small for {key}; resize them to 8 pixels or more."
        )
    if classes < 2:
        raise UserError(f"A classifier needs at least 2 classes; this data has {classes}.")
    net: Classifier = registry.get("net", key)(
        classes=classes, channels=channels, size=size, mean=mean, std=std
    )
    return net
