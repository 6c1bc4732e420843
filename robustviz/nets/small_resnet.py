"""A residual network small enough for adversarial training on a laptop in a minute.
It is the default on a CPU.
"""

from torch import Tensor, nn

from robustviz.nets.base import Classifier, Normalise, PerChannel, stem_stride
from robustviz.registry import register


class Block(nn.Module):
    """The basic residual block: two 3×3 convolutions and a shortcut (1×1 where the shape changes).

    Source: He et al. 2016 (arXiv 1512.03385), figure 2 and option B.
    """

    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inside, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = (
            nn.Identity()
            if inside == out and stride == 1
            else nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


@register("net/small_resnet")
class SmallResNet(Classifier):
    """A stem and three residual blocks, global average pooling, one linear layer.

    The blocks have 16, 32 and 64 channels; about 78,000 parameters. The last map is never smaller
    than 4×4.
    """

    label = "Small ResNet (0.08 M)"
    halved_from = 7  # a block halves maps whose side is at least this

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        stride = stem_stride(size)
        side = -(-size // stride)
        layers: list[nn.Module] = [
            Normalise(channels, mean, std),
            nn.Conv2d(channels, 16, 3, stride, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            Block(16, 16, 1),
        ]
        for inside, out in ((16, 32), (32, 64)):
            stride = 2 if side >= self.halved_from else 1
            side = -(-side // stride)
            layers.append(Block(inside, out, stride))
        super().__init__(nn.Sequential(*layers), nn.Linear(64, classes))


@register("net/small_resnet_8x8")
class SmallResNet8x8(SmallResNet):
    """The small ResNet with a last map of 8×8 cells for images of 32 pixels, instead of 4×4.

    CAM maps then show more detail. It takes about twice as much computing time.
    """

    label = "Small ResNet with 8×8 maps (0.08 M)"
    halved_from = 14
