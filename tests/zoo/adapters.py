"""The zoo: adapters, checkpointing, branches, products of units, and ways out of PyTorch."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from zoo.registry import layers, specimen


class LoRALinear(nn.Module):
    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs)
        self.a, self.b = nn.Parameter(torch.randn(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.a.t() @ self.b.t()


@specimen(
    {
        "0.base": "8: 0.base.* 0.b > 2.base.weight 2.a",
        "0.a": "3: 0.a > 0.b",
        "2.a": "2: 2.a > 2.b",
    }
)
def lora():
    return nn.Sequential(LoRALinear(4, 8, 3), nn.ReLU(), LoRALinear(8, 2, 2)), torch.randn(16, 4)


@specimen({"0.a": "3: 0.a > 0.b", "2.a": "2: 2.a > 2.b"}, refused={"0.base": "frozen", "2.base": "frozen"})
def lora_on_frozen_layers():
    model = nn.Sequential(LoRALinear(4, 8, 3), nn.ReLU(), LoRALinear(8, 2, 2))
    model[0].base.requires_grad_(False)
    model[2].base.requires_grad_(False)
    return model, torch.randn(16, 4)


@specimen({"0": "8: 0.* > 2.a"}, refused={"2.b": "output", "2.base": "met no activation"})
def lora_merged():
    class Merged(LoRALinear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.b @ self.a, self.base.bias)

    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Merged(8, 2, 3)), torch.randn(16, 4)


@specimen(
    {
        "0": "8: 0.* > 2.base.weight 2.a",
        "2": "6: 2.base.* 2.b > 4.base.weight 4.a",
    },
    refused={"4": "output"},
)
def lora_added_to_the_weight():
    class Added(LoRALinear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.base.weight + 0.5 * self.b @ self.a, self.base.bias)

    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Added(8, 6, 3), nn.ReLU(), Added(6, 2, 3)), torch.randn(16, 4)


@specimen(
    {
        "first.0": "8: first.0.* > first.2.weight",
        "first.2": "6: first.2.* > second.0.weight",
        "second.0": "5: second.0.* > second.2.weight",
    }
)
def activation_checkpointing():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = layers(4, 8, 6), layers(6, 5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(checkpoint(self.first, x, use_reentrant=False))

    return Model(), torch.randn(16, 4)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.narrow = nn.Linear(4, 5), nn.Linear(5, 8), nn.Linear(5, 8)
        self.inner, self.head = nn.Linear(8, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        layer = self.wide if x.mean() < 0 else self.narrow
        return self.head(torch.relu(self.inner(torch.relu(layer(torch.relu(self.stem(x)))))))


@specimen(
    {"inner": "7: inner.* > head.weight"},
    refused={"wide": "branches on its data, and narrow", "stem": "branches", "narrow": "met no activation"},
)
def branch_on_the_data():
    return Branching(), torch.randn(16, 4) - 5


@specimen(
    {
        "stem": "5: stem.* > wide.weight narrow.weight",
        "wide": "8: wide.* narrow.* > inner.weight",
        "inner": "7: inner.* > head.weight",
    }
)
def branch_on_the_data_with_examples_of_both_kinds():
    model, x = Branching(), torch.randn(16, 4)
    return model, lambda: (model(x - 5), model(x + 5))


class Drawn(nn.Module):
    """One of several heads is drawn at every step, as in a bootstrapped Q-network."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.trunk = nn.Linear(4, 9), nn.Linear(9, 8)
        self.heads = nn.ModuleList(nn.Linear(8, 2) for _ in range(3))

    def forward(self, x: Tensor, head: int | None = None) -> Tensor:
        head = int(torch.randint(3, ())) if head is None else head
        return self.heads[head](torch.relu(self.trunk(torch.relu(self.stem(x)))))


@specimen({"stem": "9: stem.* > trunk.weight"}, refused={"trunk": "branches at random, and heads."})
def a_head_drawn_at_random():
    return Drawn(), torch.randn(16, 4)


@specimen({"stem": "9: stem.* > trunk.weight", "trunk": "8: trunk.* > heads.0.weight heads.1.weight heads.2.weight"})
def every_head_in_turn():
    model, x = Drawn(), torch.randn(16, 4)
    return model, lambda: [model(x, head) for head in range(3)]


@specimen({"0": "6: 0.* > 1.weight 2.weight"})
def bilinear_product():
    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self[0](x))
            return self[1](x) @ self[2](x).transpose(-1, -2)

    return Model(nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(6, 5)), torch.randn(4, 7, 4)


@specimen({"0": "8: 0.* > 2.weight"}, refused={"2": "numpy"})
def leaves_torch():
    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[2](torch.relu(self[0](x)))
            return self[3](torch.from_numpy(x.detach().numpy().copy()).to(x))

    return Model(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2)), torch.randn(16, 4)


@specimen({"0": "8: 0.* > 2.weight"}, refused={"2": "several units"})
def sorted_features():
    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return self[3](self[2](torch.relu(self[0](x))).sort(-1).values)

    return Model(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2)), torch.randn(16, 4)


@specimen(
    {"generator.0": "8: generator.0.* > generator.2.weight", "critic.0": "6: critic.0.* > critic.2.weight"},
    refused={"generator.2": ""},
)
def generator_and_critic():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator, self.critic = layers(3, 8, 4), layers(4, 6, 1)

        def forward(self, noise: Tensor, real: Tensor) -> Tensor:
            return self.critic(real).mean() - self.critic(self.generator(noise)).mean()

    return Model(), (torch.randn(16, 3), torch.randn(16, 4))


@specimen(
    {"generator.0": "8: generator.0.* > generator.2.weight", "critic.0": "6: critic.0.* > critic.2.weight"},
    refused={"generator.2": "no unit", "critic.2": "output"},
)
def gan_in_a_lightning_module():
    class GAN(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.generator, self.critic = layers(3, 8, 4), layers(4, 6, 1)

    model = GAN()
    return model, lambda: (model.critic(torch.randn(16, 4)), model.critic(model.generator(torch.randn(16, 3))))


@specimen({}, refused={"layer.0": "recurrent", "layer.1": "recurrent"})
def recurrent_cells():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ModuleList([nn.GRUCell(4, 6), nn.LSTMCell(6, 5)])
            self.head = nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden, state = torch.zeros(len(x), 6), (torch.zeros(len(x), 5), torch.zeros(len(x), 5))
            for step in x.unbind(1):
                hidden = self.layer[0](step, hidden)
                state = self.layer[1](hidden, state)
            return self.head(state[0])

    return Model(), torch.randn(4, 3, 4)


@specimen({}, refused={"step": "recurrent", "read": "recurrent", "write": "output"})
def recurrence_by_hand():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.step, self.write = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            hidden = x.new_zeros(len(x), 6)
            for part in x.unbind(1):
                hidden = torch.tanh(self.read(part) + self.step(hidden))
            return self.write(hidden)

    return Model(), torch.randn(4, 3, 4)
