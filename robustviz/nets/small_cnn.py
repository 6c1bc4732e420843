"""A small network of plain convolutions, the second architecture used in the lessons.
It serves for transfer attacks and as the witness network of Model Alignment.
"""

from torch import nn

from robustviz.nets.base import Classifier, Normalise, PerChannel, stem_stride
from robustviz.registry import register


@register("net/small_cnn")
class SmallCNN(Classifier):
    """Four 3×3 convolutions with batch norm and ReLU, global average pooling, one linear layer.

    The convolutions have 32, 64, 64 and 128 channels. About 132,000 parameters for ten classes. The
    last map is never smaller than 4×4.
    """

    label = "Small CNN (0.13 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        layers: list[nn.Module] = [Normalise(channels, mean, std)]
        width, stride = channels, stem_stride(size)
        side = -(-size // stride)
        for out in (32, 64, 64, 128):
            layers += [
                nn.Conv2d(width, out, 3, stride, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.ReLU(),
            ]
            stride = 2 if side >= 8 else 1
            side, width = -(-side // stride) if out != 128 else side, out
        super().__init__(nn.Sequential(*layers), nn.Linear(width, classes))
