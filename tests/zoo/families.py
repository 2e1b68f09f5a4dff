"""The zoo: noisy layers, learned queries, filters made by a network, spectra, places to sample at, bags, sums."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.registry import specimen


class Noisy(nn.Module):
    """Weights and biases with learned noise, in training mode only."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.mu, self.sigma = (nn.Parameter(torch.randn(outputs, inputs)) for _ in range(2))
        self.bias, self.spread = (nn.Parameter(torch.randn(outputs)) for _ in range(2))
        self.register_buffer("into", torch.randn(inputs))
        self.register_buffer("out_of", torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return F.linear(x, self.mu, self.bias)
        noise = torch.outer(self.out_of, self.into)
        return F.linear(x, self.mu + self.sigma * noise, self.bias + self.spread * self.out_of)


@specimen({"0": "7: 0.mu 0.sigma 0.bias 0.spread > 2.mu 2.sigma"}, refused={"2.mu": "output", "2.sigma": "output"})
def noisy_layers():
    return nn.Sequential(Noisy(4, 7), nn.ReLU(), Noisy(7, 3)), torch.randn(8, 4)


class Attention(nn.Module):
    """Queries ask a sequence; what they are told is added to them."""

    def __init__(self, width: int, inputs: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.q, self.k, self.v = nn.Linear(width, 6), nn.Linear(inputs, 6), nn.Linear(inputs, 5)
        self.out = nn.Linear(5, width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        weights = self.q(self.norm(queries)) @ self.k(x).transpose(1, 2)
        return queries + self.out(weights.softmax(-1) @ self.v(x))


@specimen(
    {
        "attention.v": "5: attention.v.* > attention.out.weight",
        "attention.out": "8~: queries attention.norm.* attention.out.* > attention.q.weight head.weight",
    },
    refused={"attention.q": "query with a key", "attention.k": "query with a key"},
)
def learned_queries():
    class LearnedQueries(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries = nn.Parameter(torch.randn(3, 8))
            self.attention, self.head = Attention(8, 4), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.attention(self.queries, x))

    return LearnedQueries(), torch.randn(4, 6, 4)


@specimen(
    {
        "enter": "6: enter.* scale filter.2.* > leave.weight",
        "filter.0": "5: filter.0.* > filter.2.weight",
    }
)
def filter_made_by_a_network():
    class LongConvolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(4, 6), nn.Linear(6, 3)
            self.filter = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 6))
            self.scale = nn.Parameter(torch.randn(6))
            self.register_buffer("times", torch.randn(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft(self.enter(x), n=16, dim=1) * torch.fft.rfft(self.filter(self.times), n=16, dim=0)
            return self.leave(torch.fft.irfft(spectrum, n=16, dim=1)[:, :8] * self.scale)

    return LongConvolution(), torch.randn(3, 8, 4)


@specimen({"fields.0": "6: fields.*.weight norm.* > head.weight"})
def squares_of_sums_of_embeddings():
    class Interaction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fields = nn.ModuleList(nn.Embedding(5, 6) for _ in range(3))
            self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            embedded = torch.stack([field(x[:, i]) for i, field in enumerate(self.fields)], 1)
            return self.head(self.norm(embedded.sum(1).square() - embedded.square().sum(1)))

    return Interaction(), torch.randint(5, (16, 3))


@specimen({"enter": "6: enter.* > modes", "modes": "5: modes > leave.weight"})
def weights_of_a_spectrum():
    class Spectral(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave = nn.Linear(2, 6), nn.Linear(5, 3)
            self.modes = nn.Parameter(torch.randn(6, 5, 3, 2))

        def forward(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft(self.enter(x), dim=1)[:, :3]
            modes = torch.einsum("bxi,iox->bxo", spectrum, torch.view_as_complex(self.modes))
            return self.leave(torch.fft.irfft(modes, n=8, dim=1))

    return Spectral(), torch.randn(3, 8, 2)


@specimen(
    {"conv": "5: conv.* > offsets.weight head.weight"},
    refused={"offsets": "combined with other units into one number"},
)
def sampled_where_it_says_itself():
    class Deformed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.offsets, self.head = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 2, 1), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            h = self.conv(x).relu()
            return self.head(F.grid_sample(h, self.offsets(h).permute(0, 2, 3, 1), align_corners=False).mean((2, 3)))

    return Deformed(), torch.randn(3, 2, 7, 7)


@specimen({"bag": "5: bag.weight > hidden.weight", "hidden": "4: hidden.* > head.weight"})
def bag_of_features():
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.hidden, self.head = nn.EmbeddingBag(9, 5, mode="sum"), nn.Linear(5, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor, weights: Tensor) -> Tensor:
            return self.head(self.hidden(self.bag(ids, per_sample_weights=weights)).relu())

    return Bags(), (torch.randint(0, 9, (6, 3)), torch.randn(6, 3))


@specimen({"a": "6~: a.* b.* norm.* > head.weight"})
def one_norm_for_two_layers():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cat([self.norm(self.a(x)), self.norm(self.b(x))], -1).relu())

    return Shared(), torch.randn(8, 4)


@specimen({"pieces": "4: pieces.* > 2.weight", "2": "3~: 2.* 4.* > 5.weight"})
def maxima_of_units():
    class Maxima(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.unflatten(-1, (-1, 2)).amax(-1)

    steps = {
        "pieces": nn.Linear(5, 8), "1": Maxima(), "2": nn.Linear(4, 6), "3": Maxima(), "4": nn.LayerNorm(3),
        "5": nn.Linear(3, 2),
    }  # fmt: skip
    model = nn.Sequential()
    for name, step in steps.items():
        model.add_module(name, step)
    return model, torch.randn(8, 5)


@specimen(
    {
        "experts.0.0": "6: experts.0.0.* > experts.0.2.weight",
        "experts.1.0": "6: experts.1.0.* > experts.1.2.weight",
        "experts.0.2": "5: experts.0.2.* experts.1.2.* > head.weight",
        "up": "8: up offset > down",
        "down": "5: down > head.weight",
    },
    refused={"gate": "softmax"},
)
def sums_of_experts():
    class Sums(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate, self.head = nn.Linear(4, 2), nn.Linear(10, 3)
            self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)) for _ in range(2))
            self.up, self.offset = nn.Parameter(torch.randn(2, 4, 4)), nn.Parameter(torch.randn(2, 4))
            self.down = nn.Parameter(torch.randn(2, 4, 5))

        def forward(self, x: Tensor) -> Tensor:
            gates = self.gate(x).softmax(-1)
            by_layers = torch.stack([expert(x) for expert in self.experts], 1) * gates[..., None]
            hidden = (torch.einsum("bi,eih->beh", x, self.up) + self.offset).relu()
            by_tensors = torch.einsum("be,beh,eho->bo", gates, hidden, self.down)
            return self.head(torch.cat([by_layers.sum(1), by_tensors], -1))

    return Sums(), torch.randn(8, 4)


@specimen(
    {"v": "6: v.* > out.weight", "out": "5: out.* > head.weight"},
    refused={"q": "query with a key", "k": "scales several units"},
)
def linear_attention():
    class LinearAttention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 5)
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (layer(x).unflatten(-1, (2, 3)).transpose(1, 2) for layer in (self.q, self.k, self.v))
            told = (F.elu(q) + 1) @ ((F.elu(k) + 1).transpose(2, 3) @ v)
            return self.head(self.out(told.transpose(1, 2).flatten(2)).relu())

    return LinearAttention(), torch.randn(3, 5, 4)


@specimen(
    {"up": "7: up.* > down.weight"},
    refused={"queries": "also used outside of its layer", "v": "a feature that is no unit", "down": "no unit"},
)
def queries_that_are_a_weight_as_well():
    class Entangled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.queries, self.ask = nn.Parameter(torch.randn(3, 8)), nn.Parameter(torch.randn(8, 4))
            self.v, self.up, self.down, self.head = nn.Linear(4, 8), nn.Linear(8, 7), nn.Linear(7, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            z = self.queries + (self.queries @ self.ask @ x.transpose(1, 2)).softmax(-1) @ self.v(x)
            return self.head(z + self.down(self.up(z).relu()))

    return Entangled(), torch.randn(4, 6, 4)
