"""The zoo: chains of layers, with everything that may stand between a writer and a reader."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from zoo.registry import specimen


@specimen({"0": "8: 0.* > 2.weight", "2": "6: 2.* > 4.weight"})
def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), torch.randn(16, 4)


@specimen({"0": "8: 0.* > 2.weight", "2": "6: 2.* > 4.weight"})
def mlp_without_bias():
    layers = [
        nn.Linear(4, 8, bias=False),
        nn.Tanh(),
        nn.Linear(8, 6, bias=False),
        nn.GELU(),
        nn.Linear(6, 2, bias=False),
    ]
    return nn.Sequential(*layers), torch.randn(16, 4)


@specimen({"0": "1: 0.* > 2.weight"})
def one_unit():
    return nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 2)), torch.randn(16, 4)


@specimen({"0": "8: 0.* > 3.weight", "3": "6: 3.* > 6.weight"})
def dropout():
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 6), nn.SiLU(), nn.AlphaDropout(), nn.Linear(6, 2)]
    return nn.Sequential(*layers), torch.randn(16, 4)


@specimen({"0": "8: 0.* 1.* > 2.weight"})
def prelu():
    return nn.Sequential(nn.Linear(4, 8), nn.PReLU(8), nn.Linear(8, 2)), torch.randn(16, 4)


@specimen({"0": "8: 0.* > 2.weight"})
def prelu_with_one_slope_for_all():
    return nn.Sequential(nn.Linear(4, 8), nn.PReLU(), nn.Linear(8, 2)), torch.randn(16, 4)


@specimen({"0": "8: 0.* 1.* > 3.weight"})
def mlp_batch_norm():
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 4)


@specimen({"0": "8~: 0.* 1.* > 3.weight"})
def mlp_layer_norm():
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 4)


@specimen({"0": "8~: 0.* 1.* > 3.weight"})
def mlp_rms_norm():
    return nn.Sequential(nn.Linear(4, 8), nn.RMSNorm(8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 4)


@specimen({"0": "8: 0.* > 3.weight"}, refused={"1": "several units"})
def gate_from_a_softmax():
    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            hidden = torch.relu(self[0](x))
            return self[3](hidden * self[1](x).softmax(-1)[:, :1])

    return Model(nn.Linear(4, 8), nn.Linear(4, 5), nn.Identity(), nn.Linear(8, 2)), torch.randn(16, 4)


@specimen({"0": "4: 0.* 1.* > 4.weight", "4": "5: 4.* 5.* > 8.weight"})
def convnet():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(45, 2)]
    return nn.Sequential(*layers), torch.randn(4, 3, 8, 8)


@specimen({"0": "4~: 0.* 1.* > 3.weight", "3": "6~: 3.* 4.* > 7.weight"})
def convnet_group_norm():
    layers = [nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.GroupNorm(1, 6)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)), torch.randn(4, 3, 8, 8)


@specimen({"0": "4: 0.* 1.* > 3.weight"})
def convnet_instance_norm():
    layers = [nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.Flatten()]
    return nn.Sequential(*layers), torch.randn(4, 3, 8, 8)


@specimen({"0": "4: 0.* 1.* > 3.weight", "3": "5: 3.* > 6.weight"})
def conv1d():
    layers = [nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Conv1d(4, 5, 3, dilation=2), nn.AdaptiveMaxPool1d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(10, 2)), torch.randn(4, 3, 16)


@specimen({"0": "4: 0.* > 2.weight", "2": "5: 2.* 3.* > 5.weight"})
def conv3d():
    layers = [nn.Conv3d(2, 4, 2), nn.ELU(), nn.Conv3d(4, 5, 2), nn.BatchNorm3d(5), nn.Flatten(), nn.Linear(40, 2)]
    return nn.Sequential(*layers), torch.randn(4, 2, 4, 4, 4)


@specimen({"0": "4: 0.* > 2.weight", "2": "6: 2.* > 4.weight"})
def transposed_conv():
    layers = [nn.ConvTranspose2d(3, 4, 2, stride=2), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(6, 2, 1)), torch.randn(4, 3, 4, 4)


@specimen({"0": "4: 0.* > 2.weight", "2": "6: 2.* > 4.weight"})
def grouped_transposed_conv():
    layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3, groups=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(6, 2, 2, groups=2)), torch.randn(4, 3, 4, 4)


@specimen({"0": "8: 0.* > 2.weight", "2": "4: 2.* > 4.weight"})
def grouped_conv():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.ReLU(), nn.Conv2d(4, 6, 1, groups=2)]
    return nn.Sequential(*layers), torch.randn(4, 3, 8, 8)


@specimen({"0": "4: 0.* 1.* 3.* 4.* > 6.weight", "6": "5: 6.* > 10.weight"})
def depthwise_separable():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6(), nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4)]
    layers += [nn.ReLU6(), nn.Conv2d(4, 5, 1), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2)]
    return nn.Sequential(*layers), torch.randn(4, 3, 8, 8)


@specimen({}, may=("0", "2"))
def depthwise_with_two_channels_each():
    layers = [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)]
    return nn.Sequential(*layers), torch.randn(4, 3, 4, 4)


@specimen({"0": "4: 0.* > 2.weight"})
def channels_last_flatten():
    class Flatten(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu().permute(0, 2, 3, 1).flatten(1)

    return nn.Sequential(nn.Conv2d(3, 4, 3), Flatten(), nn.Linear(64, 2)), torch.randn(8, 3, 6, 6)


@specimen({"0": "4: 0.* > 2.weight"})
def channels_last_memory():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten())
    return model.to(memory_format=torch.channels_last), torch.randn(4, 3, 8, 8).to(memory_format=torch.channels_last)


@specimen({"0": "2: 0.* > 2.weight", "2": "6: 2.* > 4.weight"})  # four maps woven into one channel are one unit
def pixel_shuffle():
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1)]
    return nn.Sequential(*layers), torch.randn(2, 3, 4, 4)


@specimen(
    {"0": "8: 0.parametrizations.weight.* 0.bias > 2.weight", "2": "6~: 2.* > 4.parametrizations.weight.original1"}
)
def weight_norm():
    first, last = parametrizations.weight_norm(nn.Linear(4, 8)), parametrizations.weight_norm(nn.Linear(6, 2))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), last), torch.randn(16, 4)


@specimen(
    {"0": "6: 0.* > 2.parametrizations.weight.original0"},
    refused={"2": "none of whose entries belongs to one unit alone"},
)
def weight_normed_transposed_conv():
    upsample = parametrizations.weight_norm(nn.ConvTranspose1d(6, 4, 4, 2, 1))
    layers = [nn.Conv1d(3, 6, 3, padding=1), nn.LeakyReLU(), upsample, nn.LeakyReLU(), nn.Conv1d(4, 2, 3)]
    return nn.Sequential(*layers), torch.randn(2, 3, 8)


@specimen(
    {},
    refused={
        "0": "none of whose entries belongs to one unit alone",
        "2": "set to zero, silences one unit alone",
        "4": "(mv,",
    },
)
def spectral_norm():
    first, last = parametrizations.spectral_norm(nn.Linear(4, 8)), parametrizations.spectral_norm(nn.Linear(6, 2))
    return nn.Sequential(first, nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), last), torch.randn(16, 4)


class StandardizedConv2d(nn.Conv2d):
    """A convolution whose kernels are standardised per output channel before they are used."""

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return self._conv_forward(x, (self.weight - mean) / (std + 1e-5), self.bias)


@specimen({"2": "5: 2.* > 4.weight", "4": "6: 4.* > 6.weight"}, refused={"0": "set to zero, silences"})
def weight_standardised_conv():
    layers = [nn.Conv2d(3, 4, 3), nn.ReLU(), StandardizedConv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(6, 2, 1)), torch.randn(4, 3, 8, 8)


@specimen({"2": "6: 2.* > 4.weight"}, refused={"0": "frozen"})
def frozen_part():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    model[0].requires_grad_(False)
    return model, torch.randn(16, 4)


@specimen({"0": "8: 0.* > 2.weight"}, refused={"2": ""})
def frozen_reader():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    model[4].requires_grad_(False)
    return model, torch.randn(16, 4)


@specimen({})
def one_layer():
    return nn.Linear(4, 2), torch.randn(16, 4)


@specimen({"0": "8: 0.* > 2.weight"})
def batch_of_one():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(1, 4)
