"""torchvision's ResNet-18 with a first layer suited to images of 32 pixels."""

from torch import nn

from robustviz.imports import load
from robustviz.nets.base import Classifier, Normalise, PerChannel
from robustviz.registry import register


@register("net/resnet18")
class ResNet18(Classifier):
    """ResNet-18 with a 3×3 stem of stride 1 and no max-pooling, as used on CIFAR.

    Source: He et al. 2016 (arXiv 1512.03385). Differs: the stem, as in the code of TRADES, Rice et
    al. and PART; the side of the last map is an eighth of the image's side.
    """

    label = "ResNet-18 (11 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        whole = load("torchvision.models").resnet18(num_classes=classes)
        stem = nn.Conv2d(channels, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        super().__init__(
            nn.Sequential(
                Normalise(channels, mean, std),
                stem,
                whole.bn1,
                whole.relu,
                whole.layer1,
                whole.layer2,
                whole.layer3,
                whole.layer4,
            ),
            whole.fc,
        )
