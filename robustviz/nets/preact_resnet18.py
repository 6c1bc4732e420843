"""The pre-activation ResNet-18 of the Fast-AT and the robust-overfitting papers.
Its residual block is shared with Wide-ResNet.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from robustviz.nets.base import Classifier, Normalise, PerChannel
from robustviz.registry import register


class PreActBlock(nn.Module):
    """A residual block with batch norm and ReLU before each of two 3×3 convolutions.

    Where the shape changes, the shortcut is a 1×1 convolution of the output of the first batch norm
    and ReLU.

    Source: He et al. 2016 (arXiv 1603.05027), figure 4e.
    """

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inside), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(inside, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
        )
        self.shortcut = (
            None if inside == out and stride == 1 else nn.Conv2d(inside, out, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        ready = self.before(x)
        out: Tensor = self.body(ready) + (x if self.shortcut is None else self.shortcut(ready))
        return out


def preact_maps(
    channels: int,
    size: int,
    stem: int,
    stages: Sequence[tuple[int, int]],
    mean: PerChannel,
    std: PerChannel,
) -> nn.Sequential:
    """The layers up to the feature maps: normalisation, 3×3 stem, stages, last batch norm and ReLU.

    `stem`: channels of the stem; `stages`: (number of blocks, channels) of each stage. Every stage
    but the first halves the map, unless that would leave fewer than 4×4 cells, so that the maps
    stay large enough for CAM views. With four stages, at 25 pixels and above, this is the published
    network.
    """
    layers: list[nn.Module] = [
        Normalise(channels, mean, std),
        nn.Conv2d(channels, stem, 3, 1, 1, bias=False),
    ]
    inside, side = stem, size
    for number, (blocks, out) in enumerate(stages):
        stride = 2 if number and side >= 7 else 1
        side = -(-side // stride)
        layers.append(
            nn.Sequential(
                *(PreActBlock(out if i else inside, out, 1 if i else stride) for i in range(blocks))
            )
        )
        inside = out
    return nn.Sequential(*layers, nn.BatchNorm2d(inside), nn.ReLU())


@register("net/preact_resnet18")
class PreActResNet18(Classifier):
    """PreAct-ResNet-18 with a 3×3 stem of stride 1.

    The feature maps are taken after the last batch norm and ReLU. Source: He et al. 2016 (arXiv
    1603.05027); initial weights (torch's own) as in the code of Wong et al. 2020 (Fast-AT) and Rice
    et al. 2020. Differs: for images below 25 pixels the last stages keep their resolution, see
    `preact_maps`; Fast-AT's 1×1 shortcuts read the block's raw input, before batch norm.
    """

    label = "PreAct-ResNet-18 (11 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        super().__init__(
            preact_maps(channels, size, 64, ((2, 64), (2, 128), (2, 256), (2, 512)), mean, std),
            nn.Linear(512, classes),
        )
