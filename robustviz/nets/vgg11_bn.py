"""VGG-11, a deep network without shortcuts.
As a witness network in Model Alignment it differs from all residual networks.
"""

from torch import nn

from robustviz.nets.base import Classifier, Normalise, PerChannel
from robustviz.registry import register


@register("net/vgg11_bn")
class VGG11BN(Classifier):
    """The eight convolutions of VGG-11 with batch norm, global average pooling, one linear layer.

    Source: Simonyan and Zisserman 2015 (arXiv 1409.1556), column A; initial weights as in
    torchvision's `vgg.py`. Differs: one linear layer in place of three, no biases before batch
    norm, and no max-pooling that would leave fewer than 4×4 cells: torchvision's five would leave a
    single one at 32 pixels, and none at 8.
    """

    label = "VGG-11 (9 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        layers: list[nn.Module] = [Normalise(channels, mean, std)]
        inside, side = channels, size
        for stage in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
            for out in stage:
                conv = nn.Conv2d(inside, out, 3, 1, 1, bias=False)
                nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
                layers += [conv, nn.BatchNorm2d(out), nn.ReLU()]
                inside = out
            if side >= 8:
                layers.append(nn.MaxPool2d(2))
                side //= 2
        head = nn.Linear(inside, classes)
        nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(head.bias)
        super().__init__(nn.Sequential(*layers), head)
