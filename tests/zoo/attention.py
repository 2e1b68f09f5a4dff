"""The zoo: gated networks, mixers and attention, written by hand and from ``torch.nn``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.registry import specimen

TOKENS = (4, 5, 6)


@specimen({"0": "8: 0.* > 2.weight"})
def glu():
    return nn.Sequential(nn.Linear(4, 16), nn.GLU(), nn.Linear(8, 2)), torch.randn(16, 4)


class SwiGLU(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


@specimen({"gate": "8: gate.* up.* > down.weight"})
def swiglu():
    return SwiGLU(4, 8), torch.randn(16, 4)


@specimen(
    {"1.tokens.0": "7: 1.tokens.0.* > 1.tokens.2.weight", "1.channels.0": "10: 1.channels.0.* > 1.channels.2.weight"},
    may=("0",),
)
def mlp_mixer():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
            self.tokens = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.Linear(7, 5))
            self.channels = nn.Sequential(nn.Linear(8, 10), nn.GELU(), nn.Linear(10, 8))

        def forward(self, x: Tensor) -> Tensor:
            x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
            return (x + self.channels(self.norm2(x))).mean(1)

    return nn.Sequential(nn.Linear(6, 8), Mixer(), nn.Linear(8, 2)), torch.randn(TOKENS)


class Attention(nn.Module):
    """Multi-head attention with one packed projection; fewer key-value heads than query heads if asked for."""

    def __init__(self, width: int, heads: int, kv_heads: int | None = None) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = heads, kv_heads or heads, width // heads
        self.qkv = nn.Linear(width, (heads + 2 * self.kv_heads) * self.size)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [self.heads * self.size, self.kv_heads * self.size, self.kv_heads * self.size]
        q, k, v = (part.unflatten(-1, (-1, self.size)).transpose(1, 2) for part in self.qkv(x).split(sizes, dim=-1))
        k, v = (part.repeat_interleave(self.heads // self.kv_heads, dim=1) for part in (k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int | None = None) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, kv_heads)
        self.norm2, self.mlp = nn.LayerNorm(width), nn.Sequential(nn.Linear(width, 10), nn.GELU(), nn.Linear(10, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, kv_heads: int | None = None) -> None:
        super().__init__()
        self.embed, self.position = nn.Conv2d(3, 8, 4, stride=4), nn.Parameter(torch.randn(1, 4, 8))
        self.block, self.norm, self.head = ViTBlock(8, 4, kv_heads), nn.LayerNorm(8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(self.embed(x).flatten(2).transpose(1, 2) + self.position)
        return self.head(self.norm(x).mean(1))


STREAM = (
    "8~: embed.* position block.attention.proj.* block.mlp.2.* block.norm1.* block.norm2.* norm.* "
    "> block.attention.qkv.weight block.mlp.0.weight head.weight"
)


@specimen(
    {
        "embed": STREAM,
        "block.attention.qkv": "8: block.attention.qkv.* > block.attention.proj.weight",
        "block.mlp.0": "10: block.mlp.0.* > block.mlp.2.weight",
    }
)
def vit():
    return ViT(), torch.randn(4, 3, 8, 8)


@specimen(
    {
        "embed": STREAM,
        "block.attention.qkv": "4: block.attention.qkv.* > block.attention.proj.weight",
        "block.mlp.0": "10: block.mlp.0.* > block.mlp.2.weight",
    }
)
def grouped_query_attention():
    return ViT(kv_heads=2), torch.randn(4, 3, 8, 8)


@specimen(
    {
        "0": "6: 0.* > 1.in_proj_weight",
        "1": "6: 1.in_proj_weight 1.in_proj_bias > 1.out_proj.weight",
        "1.out_proj": "6: 1.out_proj.* > 2.weight",
    }
)
def multihead_attention():
    class SelfAttention(nn.MultiheadAttention):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x, x, x, need_weights=False)[0]

    return nn.Sequential(nn.Linear(6, 6), SelfAttention(6, 2, batch_first=True), nn.Linear(6, 2)), torch.randn(TOKENS)


@specimen(
    {
        "attention": "6: attention.v_proj_weight attention.in_proj_bias > attention.out_proj.weight",
        "attention.out_proj": "6: attention.out_proj.* > head.weight",
    }
)
def cross_attention():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(6, 3, kdim=4, vdim=4, batch_first=True), nn.Linear(6, 2)

        def forward(self, query: Tensor, memory: Tensor) -> Tensor:
            return self.head(self.attention(query, memory, memory)[0])

    return Model(), (torch.randn(TOKENS), torch.randn(4, 3, 4))


@specimen(
    {
        "0": (
            "6~: 0.* 1.self_attn.out_proj.* 1.linear2.* 1.norm1.* 1.norm2.* "
            "> 1.self_attn.in_proj_weight 1.linear1.weight 2.weight"
        ),
        "1.self_attn": "6: 1.self_attn.in_proj_weight 1.self_attn.in_proj_bias > 1.self_attn.out_proj.weight",
        "1.linear1": "9: 1.linear1.* > 1.linear2.weight",
    }
)
def transformer_encoder_layer():
    layer = nn.TransformerEncoderLayer(6, 2, dim_feedforward=9, batch_first=True)
    return nn.Sequential(nn.Linear(6, 6), layer, nn.Linear(6, 2)), torch.randn(TOKENS)


@specimen(
    {
        "embed": "8: embed.weight > hidden.weight",
        "hidden": "6: hidden.* > head.weight",
    }
)
def bag_of_words():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden, self.head = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(torch.relu(self.hidden(self.embed(tokens).mean(1))))

    return Model(), torch.randint(20, (16, 7))


@specimen({"hidden": "6: hidden.* > out.weight"}, refused={"embed": ""})
def tied_embedding():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.hidden, self.out = nn.Embedding(20, 8), nn.Linear(8, 6), nn.Linear(6, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            x = self.out(torch.relu(self.hidden(self.embed(tokens))))
            return x @ self.embed.weight.t()

    return Model(), torch.randint(20, (4, 7))
