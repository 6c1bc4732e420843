"""A vision transformer small enough for a laptop; all other networks here are convolutional."""

import torch
from torch import Tensor, nn

from robustviz.nets.base import Classifier, Normalise, PerChannel, stem_stride
from robustviz.registry import register

WIDTH, BLOCKS, HEADS = 80, 4, 4


class Attention(nn.Module):
    """Multi-head self-attention of tokens (N, T, D).

    It is written out here, because torch's fused kernels have no second derivative, which curvature
    probes need. They also use another code path when no gradient is required, so that an image's
    logits would depend on whether gradients are computed.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, t, d = tokens.shape
        q, k, v = self.qkv(tokens).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) * (d // self.heads) ** -0.5).softmax(3)
        out: Tensor = self.out((weights @ v).transpose(1, 2).reshape(n, t, d))
        return out


class Block(nn.Module):
    """Self-attention and a two-layer perceptron, each with a layer norm before it and a shortcut.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), eq. 2 and 3. Differs: the hidden layer is
    twice as wide, not four times.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attend(tokens)
        out: Tensor = tokens + self.think(tokens)
        return out


class Positions(nn.Module):
    """Adds a learned position embedding to the patches (N, D, h, w).

    Differs from the paper: it starts with standard deviation 1, the scale of the patches, not 0.02.
    From 0.02, plain SGD took most of a short training to raise it (digits, 20 epochs: clean
    accuracy 0.93 to 0.96, against 0.98 when starting with 1).
    """

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(1, width, side, side))

    def forward(self, patches: Tensor) -> Tensor:
        return patches + self.embedding


class Encoder(nn.Module):
    """Transformer blocks whose tokens are the cells of a map, then a layer norm.

    Input and output are (N, D, h, w).
    """

    def __init__(self, width: int, blocks: int, heads: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(Block(width, heads) for _ in range(blocks)), nn.LayerNorm(width)
        )

    def forward(self, grid: Tensor) -> Tensor:
        tokens: Tensor = self.blocks(grid.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(grid.shape)


@register("net/tiny_vit")
class TinyViT(Classifier):
    """Four transformer blocks of 80 channels over square patches; the mean token goes to the head.

    Patches are 2, 4 or 8 pixels wide; about 210,000 parameters. The maps are the tokens after the
    last layer norm, on their grid of at least 4×4, so CAM works as on any other network. Source:
    Dosovitskiy et al. 2021 (arXiv 2010.11929); Xavier initial weights as in the authors'
    `models_vit.py`. Differs: no class token (Beyer et al. 2022, arXiv 2205.01580), no dropout, four
    blocks, position embeddings that start larger, and a head that does not start at 0.
    """

    label = "Tiny ViT (0.2 M)"

    def __init__(
        self, classes: int, channels: int, size: int, mean: PerChannel, std: PerChannel
    ) -> None:
        patch = 2 * stem_stride(size)
        side = -(-size // patch)
        # if the size is not a multiple of the patch, pad with zeros so that no pixel is dropped
        missing = side * patch - size
        super().__init__(
            nn.Sequential(
                Normalise(channels, mean, std),
                nn.ZeroPad2d((0, missing, 0, missing)),
                nn.Conv2d(channels, WIDTH, patch, patch),
                Positions(WIDTH, side),
                Encoder(WIDTH, BLOCKS, HEADS),
            ),
            nn.Linear(WIDTH, classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
