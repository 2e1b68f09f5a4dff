"""Which operation of autograd follows which rule."""

from __future__ import annotations

import torch
from torch.nn import functional

from lightning_plasticity.optim import hesscale_rules as rules
from lightning_plasticity.optim.hesscale_losses import LOSSES
from lightning_plasticity.optim.hesscale_rules import Rule

MOVES = frozenset({
    "AdaptiveMaxPool2DBackward0", "AdaptiveMaxPool3DBackward0", "AddBackward1", "AliasBackward0", "AmaxBackward0",
    "AsStridedBackward0", "CatBackward0", "ClampBackward0", "ClampBackward1", "ClampMaxBackward0", "ClampMinBackward0",
    "CloneBackward0", "ConstantPadNdBackward0", "DiagonalBackward0", "EmbeddingBackward0", "ExpandBackward0",
    "FlipBackward0", "GatherBackward0", "HardtanhBackward0", "IndexBackward0", "IndexSelectBackward0",
    "MaskedFillBackward0", "MaxPool2DWithIndicesBackward0", "MaxPool3DWithIndicesBackward0", "PermuteBackward0",
    "ReflectionPad1DBackward0", "ReflectionPad2DBackward0", "ReluBackward0", "RepeatBackward0",
    "ReplicationPad1DBackward0", "ReplicationPad2DBackward0", "ReshapeAliasBackward0", "RollBackward0",
    "SelectBackward0", "SliceBackward0", "SplitBackward0", "SplitWithSizesBackward0", "SqueezeBackward0",
    "SqueezeBackward1", "SqueezeBackward2", "StackBackward0", "SubBackward1", "SumBackward0", "SumBackward1",
    "TBackward0", "ThresholdBackward0", "TransposeBackward0", "UnbindBackward0", "UnfoldBackward0",
    "UnsafeViewBackward0", "UnsqueezeBackward0", "UpsampleNearest1DBackward0", "UpsampleNearest2DBackward0",
    "UpsampleNearest3DBackward0", "ViewBackward0",
})  # fmt: skip
"""Operations whose Jacobian holds zeros and ones and so equals its own square: ``h`` takes the gradient's own way."""


def _curve(function: rules.Function) -> Rule:
    return Rule(rules.twice, rules.bent(function))


RULES: dict[str, Rule] = LOSSES | {
    "AbsBackward0": Rule(rules.twice),
    "DivBackward1": Rule(rules.twice),
    "LeakyReluBackward0": Rule(rules.twice),
    "MulBackward1": Rule(rules.twice),
    "NativeDropoutBackward0": Rule(rules.twice),
    "NegBackward0": Rule(rules.twice),
    "RreluWithNoiseBackward0": Rule(rules.twice),
    "RsubBackward1": Rule(rules.twice),
    "AddBackward0": Rule(rules.plus(1)),
    "SubBackward0": Rule(rules.plus(-1)),
    "ToCopyBackward0": Rule(lambda node, h, needed: (h,)),  # keeps the precision that the gradient loses
    "MulBackward0": Rule(rules.times, objection=rules.two_activations),
    "DivBackward0": Rule(rules.over, objection=rules.by_activation),
    "AddmmBackward0": Rule(rules.addmm, objection=rules.two_activations),
    "MmBackward0": Rule(rules.matmul, objection=rules.two_activations),
    "BmmBackward0": Rule(rules.matmul, objection=rules.two_activations),
    "ConvolutionBackward0": Rule(rules.convolution),
    "PreluKernelBackward0": Rule(rules.prelu),
    "MeanBackward0": Rule(rules.mean),
    "MeanBackward1": Rule(rules.mean),
    "AvgPool2DBackward0": Rule(rules.average_pool(functional.avg_pool2d, 2)),
    "AvgPool3DBackward0": Rule(rules.average_pool(functional.avg_pool3d, 3)),
    "AdaptiveAvgPool2DBackward0": Rule(rules.adaptive_pool(2)),
    "AdaptiveAvgPool3DBackward0": Rule(rules.adaptive_pool(3)),
    "NativeBatchNormBackward0": Rule(rules.batch_norm, objection=rules.in_training),
    "TanhBackward0": rules.curved(rules.tanh),
    "SigmoidBackward0": rules.curved(rules.sigmoid),
    "ExpBackward0": rules.curved(rules.exp),
    "SqrtBackward0": rules.curved(rules.sqrt),
    "EluBackward0": _curve(rules.elu),
    "CeluBackward0": _curve(lambda node, x: functional.celu(x, node._saved_alpha)),
    "GeluBackward0": _curve(lambda node, x: functional.gelu(x, approximate=node._saved_approximate)),
    "HardsigmoidBackward0": Rule(rules.twice),
    "HardswishBackward0": _curve(lambda node, x: x * (x + 3).clamp(0, 6) / 6),
    "LogBackward0": _curve(lambda node, x: x.log()),
    "Log1PBackward0": _curve(lambda node, x: x.log1p()),
    "LogSigmoidBackward0": _curve(lambda node, x: functional.logsigmoid(x)),
    "MishBackward0": _curve(lambda node, x: x * functional.softplus(x).tanh()),
    "PowBackward0": _curve(lambda node, x: x**node._saved_exponent),
    "SiluBackward0": _curve(lambda node, x: x * x.sigmoid()),
    "SinBackward0": _curve(lambda node, x: x.sin()),
    "CosBackward0": _curve(lambda node, x: x.cos()),
    "ErfBackward0": _curve(lambda node, x: torch.erf(x)),
    "SoftplusBackward0": _curve(lambda node, x: functional.softplus(x, node._saved_beta, node._saved_threshold)),
}
"""The other operations that can be passed. ``pow`` covers the squares of hand-written losses."""

BROADCASTS = frozenset({"AddBackward0", "DivBackward0", "MulBackward0", "PreluKernelBackward0", "SubBackward0"})
"""Operations whose inputs may be smaller than their output, which autograd sums to size after the node."""
