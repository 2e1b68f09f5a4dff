"""What HesScale costs beside a plain backward pass, and how far it is from the exact diagonal of the Hessian.

    python benchmarks/hesscale.py --json

Cost: forward and backward pass with HesScale over the same without, on an MLP 784-300-150-10, one thread, processor
time; the median, over rounds, of the quotient of two times taken one right after the other, in turn first. Error: sum
of absolute differences over the sum of absolute values of the exact diagonal, on an MLP 20-32-16-5 with one batch of 8
under cross-entropy in double precision; the mean over 20 networks.
"""

import argparse
import json
import statistics
import time
from itertools import pairwise

import torch
from torch import nn

from lightning_plasticity.optim import HesScale


def mlp(sizes, activation):
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), activation())]
    return nn.Sequential(*layers[:-1])


def cost(activation, batch_size, rounds):
    torch.manual_seed(0)
    model = mlp((784, 300, 150, 10), activation)
    x, y, hesscale = torch.randn(batch_size, 784), torch.randint(10, (batch_size,)), HesScale(model)

    def plain():
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()

    def with_hesscale():
        model.zero_grad()
        hesscale.watch(nn.functional.cross_entropy(model(x), y)).backward()

    def timed(step):
        start = time.process_time()
        for _ in range(20):
            step()
        return (time.process_time() - start) / 20

    timed(plain), timed(with_hesscale)
    quotients = []
    for i in range(rounds):
        order = (with_hesscale, plain) if i % 2 else (plain, with_hesscale)
        times = {step: timed(step) for step in order}
        quotients.append(times[with_hesscale] / times[plain])
    return statistics.median(quotients)


def error(activation, networks=20):
    return statistics.mean(_error(activation, seed) for seed in range(networks))


def _error(activation, seed):
    torch.manual_seed(seed)
    model = mlp((20, 32, 16, 5), activation).double()
    x, y = torch.randn(8, 20).double(), torch.randint(5, (8,))
    hesscale, parameters = HesScale(model), dict(model.named_parameters())
    hesscale.watch(nn.functional.cross_entropy(model(x), y)).backward()
    difference, size = 0.0, 0.0
    for name, parameter in parameters.items():

        def loss(values, name=name):
            logits = torch.func.functional_call(model, parameters | {name: values.view_as(parameters[name])}, (x,))
            return nn.functional.cross_entropy(logits, y)

        exact = torch.func.hessian(loss)(parameter.detach().flatten()).diagonal().view_as(parameter)
        difference += (hesscale.take(parameter) - exact).abs().sum().item()
        size += exact.abs().sum().item()
    return difference / size


def rows(rounds):
    for activation, name in ((nn.ReLU, "relu"), (nn.Tanh, "tanh")):
        for batch_size in (1, 32, 128):
            yield f"mlp784_{name}_batch{batch_size}_cost", cost(activation, batch_size, rounds), 1.8
    yield "mlp20_relu_error", error(nn.ReLU), 0.16
    yield "mlp20_tanh_error", error(nn.Tanh), 0.09


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--rounds", type=int, default=31)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for name, ratio, goal in rows(arguments.rounds):
        if arguments.json:
            print(json.dumps({"name": name, "ratio": round(ratio, 3), "goal": goal}), flush=True)
        else:
            print(f"{name:30} {ratio:.3f} (goal {goal}: {'met' if ratio <= goal else 'missed'})", flush=True)


if __name__ == "__main__":
    main()
