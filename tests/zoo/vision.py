"""The zoo: convolutional networks with branches, sums, concatenations, shuffles and gates."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.registry import specimen

IMAGES = (4, 3, 8, 8)


def conv_bn(inputs: int, outputs: int, kernel: int = 3, **options) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


class Head(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.mean((2, 3)))


class Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, inner: int = 5) -> None:
        super().__init__()
        self.a, self.b = conv_bn(inputs, inner), conv_bn(inner, outputs)
        self.shortcut = nn.Identity() if inputs == outputs else conv_bn(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.b(torch.relu(self.a(x))) + self.shortcut(x))


@specimen(
    {
        "stem.0": "4: stem.0.* stem.1.* block.b.0.* block.b.1.* > block.a.0.weight head.linear.weight",
        "block.a.0": "5: block.a.0.* block.a.1.* > block.b.0.weight",
    }
)
def residual():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = conv_bn(3, 4), Residual(4, 4), Head(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(torch.relu(self.stem(x))))

    return Model(), torch.randn(IMAGES)


@specimen(
    {
        "0.0": "4: 0.0.* 0.1.* > 2.a.0.weight 2.shortcut.0.weight",
        "2.a.0": "5: 2.a.0.* 2.a.1.* > 2.b.0.weight",
        "2.b.0": "6: 2.b.0.* 2.b.1.* 2.shortcut.0.* 2.shortcut.1.* 3.b.0.* 3.b.1.* > 3.a.0.weight 4.linear.weight",
        "3.a.0": "5: 3.a.0.* 3.a.1.* > 3.b.0.weight",
    }
)
def residual_projected():
    return nn.Sequential(conv_bn(3, 4), nn.ReLU(), Residual(4, 6), Residual(6, 6), Head(6)), torch.randn(IMAGES)


class PreActivation(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, inner, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(inner), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(x))))))


@specimen(
    {
        "0": "4: 0.* 1.norm1.* 1.conv2.* 2.norm1.* 2.conv2.* 3.* > 1.conv1.weight 2.conv1.weight 4.linear.weight",
        "1.conv1": "5: 1.conv1.* 1.norm2.* > 1.conv2.weight",
        "2.conv1": "6: 2.conv1.* 2.norm2.* > 2.conv2.weight",
    }
)
def residual_pre_activation():
    layers = [nn.Conv2d(3, 4, 3), PreActivation(4, 5), PreActivation(4, 6), nn.BatchNorm2d(4), Head(4)]
    return nn.Sequential(*layers), torch.randn(IMAGES)


@specimen(
    {
        "0": "8: 0.* 1.up.0.* 1.up.1.* > 1.down.0.weight 2.linear.weight",
        "1.down.0": "4: 1.down.0.* 1.down.1.* > 1.middle.0.weight",
        "1.middle.0": "4: 1.middle.0.* 1.middle.1.* > 1.up.0.weight",
    }
)
def bottleneck():
    class Bottleneck(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.middle, self.up = conv_bn(8, 4, 1), conv_bn(4, 4, groups=2), conv_bn(4, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(torch.relu(self.middle(torch.relu(self.down(x)))))

    return nn.Sequential(nn.Conv2d(3, 8, 3), Bottleneck(), Head(8)), torch.randn(IMAGES)


@specimen(
    {
        "stem": "4: stem.* norm1.* norm2.* > conv1.weight conv2.weight head.linear.weight",
        "conv1": "3: conv1.* norm2.* > conv2.weight head.linear.weight",
        "conv2": "5: conv2.* > head.linear.weight",
    }
)
def densenet():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
            self.norm2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 5, 3, padding=1)
            self.head = Head(12)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            x = torch.cat([x, self.conv1(torch.relu(self.norm1(x)))], 1)
            return self.head(torch.cat([x, self.conv2(torch.relu(self.norm2(x)))], 1))

    return Model(), torch.randn(IMAGES)


@specimen(
    {
        "0": "8: 0.* > 1.weight",
        "1": "8: 1.* > 3.weight",
        "3": "6: 3.* > 4.linear.weight",
    }
)
def channel_shuffle():
    layers = [nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, groups=2), nn.ChannelShuffle(2), nn.Conv2d(8, 6, 1, groups=2)]
    return nn.Sequential(*layers, Head(6)), torch.randn(IMAGES)


@specimen(
    {
        "0": "4: 0.* 1.c.* > 1.a.weight 2.weight",
        "0#2": "4: 0.* 1.e.* > 2.weight",
        "1.a": "5: 1.a.* > 1.c.weight",
    }
)
def split_and_concatenate():
    class Split(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.e = nn.Conv2d(4, 5, 1), nn.Conv2d(5, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)

        def forward(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, dim=1)
            right = self.e(right)
            return torch.stack([left + self.c(torch.relu(self.a(left))), right], dim=2).flatten(1, 2)

    return nn.Sequential(nn.Conv2d(3, 8, 3), Split(), nn.Conv2d(8, 2, 1)), torch.randn(IMAGES)


@specimen(
    {
        "stem": "6: stem.* up.* > down.weight head.linear.weight",
        "down": "2: down.* > up.weight",
    }
)
def squeeze_and_excitation():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.down, self.up, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 2), nn.Linear(2, 6), Head(6)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            gate = torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3))))))
            return self.head(x * gate[:, :, None, None])

    return Model(), torch.randn(IMAGES)


@specimen(
    {
        "down1": "4: down1.* > down2.weight join.weight",
        "down2": "6: down2.* > up.weight",
        "up": "3: up.* > join.weight",
        "join": "5: join.* > out.weight",
    }
)
def u_net():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down1, self.down2 = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
            self.up, self.join = nn.ConvTranspose2d(6, 3, 2, stride=2), nn.Conv2d(7, 5, 3, padding=1)
            self.out = nn.Conv2d(5, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            skip = torch.relu(self.down1(x))
            deep = torch.relu(self.down2(torch.max_pool2d(skip, 2)))
            return self.out(torch.relu(self.join(torch.cat([skip, self.up(deep)], 1))))

    return Model(), torch.randn(IMAGES)


@specimen(
    {
        "0": "4: 0.* 1.gamma 1.depthwise.* 1.outer.* > 1.inner.weight 2.linear.weight",
        "1.inner": "7: 1.inner.* > 1.outer.weight",
    }
)
def layer_scale():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
            self.inner, self.outer = nn.Linear(4, 7), nn.Linear(7, 4)
            self.gamma = nn.Parameter(1e-6 * torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            inner = self.inner(self.depthwise(x).permute(0, 2, 3, 1))
            return x + (self.gamma * self.outer(nn.functional.gelu(inner))).permute(0, 3, 1, 2)

    return nn.Sequential(nn.Conv2d(3, 4, 3), Block(), Head(4)), torch.randn(IMAGES)


@specimen(
    {"0": "4: 0.* 1.inner.2.* > 1.inner.0.weight 2.linear.weight", "1.inner.0": "5: 1.inner.0.* > 1.inner.2.weight"}
)
def gated_by_a_scalar():
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 4, 1))
            self.alpha = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.alpha * self.inner(x)

    return nn.Sequential(nn.Conv2d(3, 4, 3), Gated(), Head(4)), torch.randn(IMAGES)


@specimen(
    {
        "a": "4: a.* > attend.weight head.linear.weight",
    },
    may=("attend",),
)
def spatial_attention():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.attend, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1), Head(4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            return self.head(x * torch.sigmoid(self.attend(x)))

    return Model(), torch.randn(IMAGES)
