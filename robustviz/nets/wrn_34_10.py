"""Wide-ResNet-34-10, the large network of the TRADES, MART and PART tables; it needs a GPU."""

from torch import nn

from robustviz.nets.base import Classifier, PerChannel
from robustviz.nets.preact_resnet18 import preact_maps
from robustviz.registry import register


@register("net/wrn_34_10")
class WideResNet3410(Classifier):
    """Wide-ResNet-34-10: three stages of five pre-activation blocks, ten times as wide as a ResNet.

    It has no dropout. The maps are taken after the last batch norm and ReLU; PART's authors take
    them before, as `cam.grad_cam` does with `before_norm`. Source: Zagoruyko and Komodakis 2016
    (arXiv 1605.07146); blocks and initial weights as in TRADES' `models/wideresnet.py`. Differs:
    for images below 13 pixels the last stage keeps its resolution, see `preact_maps`, and the
    unused `sub_block1` of that file is left out.
    """

    label = "Wide-ResNet-34-10 (46 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        maps = preact_maps(channels, size, 16, ((5, 160), (5, 320), (5, 640)), mean, std)
        for module in maps.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        head = nn.Linear(640, classes)
        nn.init.zeros_(head.bias)
        super().__init__(maps, head)
