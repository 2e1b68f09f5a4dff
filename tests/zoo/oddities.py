"""The zoo: models whose structure is not written in their layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.registry import layers, specimen


@specimen({"w1": "8: w1 b1 > w2"})
def functional_parameters():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.b1 = nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(8))
            self.w2 = nn.Parameter(torch.randn(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x @ self.w1.t() + self.b1) @ self.w2

    return Model(), torch.randn(16, 4)


@specimen({"w1": "8: w1 > w2"})
def functional_einsum():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w1, self.w2 = nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bh,ho->bo", torch.tanh(torch.einsum("bi,ih->bh", x, self.w1)), self.w2)

    return Model(), torch.randn(16, 4)


@specimen({"encoder.0": "6: encoder.0.* > encoder.2.weight", "encoder.2": "5: encoder.2.* > head.weight"})
def twins():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = layers(4, 6, 5), nn.Linear(10, 2)

        def forward(self, one: Tensor, other: Tensor) -> Tensor:
            return self.head(torch.cat([self.encoder(one), self.encoder(other)], dim=-1).relu())

    return Model(), (torch.randn(16, 4), torch.randn(16, 4))


@specimen({}, refused={"first": "recurrent", "shared": "recurrent", "head": "output"})
def layer_used_twice():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.shared, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.head(torch.relu(self.shared(torch.relu(self.shared(x)))))

    return Model(), torch.randn(16, 4)


@specimen(
    {
        "encoder.0": "6: encoder.0.* > encoder.2.weight",
        "encoder.2": "3: encoder.2.* > decoder.0.weight",
        "decoder.0": "7: decoder.0.* > decoder.2.weight",
    }
)
def autoencoder():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = layers(4, 6, 3), layers(3, 7, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.decoder(self.encoder(x))

    return Model(), torch.randn(16, 4)


@specimen({}, refused={"encoder": "tied"})
def autoencoder_with_tied_weights():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.bias = nn.Linear(4, 6), nn.Parameter(torch.zeros(4))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.relu(self.encoder(x)), self.encoder.weight.t(), self.bias)

    return Model(), torch.randn(16, 4)


class VAE(nn.Module):
    def __init__(self, returns_statistics: bool) -> None:
        super().__init__()
        self.encoder, self.mean, self.log_variance = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.decoder, self.returns_statistics = layers(3, 7, 5), returns_statistics

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = torch.relu(self.encoder(x))
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return (self.decoder(z), mean, log_variance) if self.returns_statistics else (self.decoder(z),)


VAE_GROUPS = {
    "encoder": "8: encoder.* > mean.weight log_variance.weight",
    "decoder.0": "7: decoder.0.* > decoder.2.weight",
}


@specimen(VAE_GROUPS, refused={"mean": "output", "log_variance": "output"})
def vae():
    return VAE(returns_statistics=True), torch.randn(16, 5)


@specimen(VAE_GROUPS | {"mean": "3: mean.* log_variance.* > decoder.0.weight"})
def vae_that_returns_the_reconstruction():
    return VAE(returns_statistics=False), torch.randn(16, 5)


@specimen(
    {
        "trunk.0": "8: trunk.0.* > trunk.2.weight",
        "trunk.2": "6: trunk.2.* > policy.weight value.0.weight",
        "value.0": "5: value.0.* > value.2.weight",
    }
)
def actor_critic():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.policy, self.value = layers(4, 8, 6), nn.Linear(6, 3), layers(6, 5, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.tanh(self.trunk(x))
            return self.policy(x).log_softmax(-1), self.value(x)

    return Model(), torch.randn(16, 4)


@specimen({"trunk": "8: trunk.* > heads.0.weight heads.1.weight heads.2.weight"})
def multi_head():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.heads = nn.Linear(4, 8), nn.ModuleList(nn.Linear(8, n) for n in (2, 3, 4))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = torch.relu(self.trunk(x))
            return {str(i): head(x) for i, head in enumerate(self.heads)}

    return Model(), torch.randn(16, 4)


@specimen({"left": "8: left.* right.* > head.weight"})
def several_inputs_by_name():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.head = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, *, left: Tensor, right: Tensor, scale: float = 1.0) -> Tensor:
            return self.head(torch.relu(self.left(left) + scale * self.right(right)))

    return Model(), {"left": torch.randn(16, 4), "right": torch.randn(16, 3), "scale": 0.5}


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.Module]) -> None:
        super().__init__()
        self.cell, self.head = cell(4, 6, batch_first=True), layers(6, 5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0].mean(1))


@specimen({"head.0": "5: head.0.* > head.2.weight"}, refused={"cell": "recurrent"})
def gru():
    return Recurrent(nn.GRU), torch.randn(4, 5, 4)


@specimen({"head.0": "5: head.0.* > head.2.weight"}, refused={"cell": "recurrent"})
def lstm():
    return Recurrent(nn.LSTM), torch.randn(4, 5, 4)


@specimen(
    {
        "experts.0.0": "7: experts.0.0.* > experts.0.2.weight",
        "experts.1.0": "7: experts.1.0.* > experts.1.2.weight",
        "embed": "6: embed.* > router.weight experts.0.0.weight experts.1.0.weight",
    },
    may=("experts.0.2",),
)
def mixture_of_experts():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.router = nn.Linear(4, 6), nn.Linear(6, 2)
            self.experts, self.head = nn.ModuleList(layers(6, 7, 6) for _ in range(2)), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.embed(x))
            weight, choice = self.router(x).softmax(-1).max(-1)
            mixed = torch.zeros_like(x)
            for i, expert in enumerate(self.experts):
                rows = torch.where(choice == i)[0]
                if len(rows):
                    mixed.index_add_(0, rows, expert(x[rows]) * weight[rows, None])
            return self.head(mixed)

    return Model(), torch.randn(64, 4)
