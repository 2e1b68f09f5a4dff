"""The zoo: small models of Transformers with random weights, and LoRA by PEFT; both imported when first needed."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch

from zoo.registry import specimen

TOKENS = (3, 7)


@contextmanager
def quiet() -> Generator[None, None, None]:
    """The guests warn about their own configurations."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def tokens() -> torch.Tensor:
    return torch.randint(2, 30, TOKENS)


def encoder(prefix: str, count: int, groups: dict[str, str]) -> dict[str, str]:
    """Repeat the groups of one layer, in which ``@`` stands for the layer."""
    return {
        k.replace("@", f"{prefix}.{i}"): v.replace("@", f"{prefix}.{i}")
        for i in range(count)
        for k, v in groups.items()
    }


def stream(start: str, prefix: str, count: int, writers: str, readers: str, end: str) -> str:
    """Return a coupled residual stream of 16 units that ``writers`` of all layers write and ``readers`` read."""
    layers = [f"{prefix}.{i}" for i in range(count)]
    written, read = (" ".join(part.replace("@", layer) for layer in layers) for part in (writers, readers))
    return f"16~: {start} {written} > {read} {end}"


@specimen(
    {
        "bert.embeddings.word_embeddings": stream(
            "bert.embeddings.word_embeddings.* bert.embeddings.position_embeddings.* "
            "bert.embeddings.token_type_embeddings.* bert.embeddings.LayerNorm.*",
            "bert.encoder.layer",
            2,
            "@.attention.output.dense.* @.attention.output.LayerNorm.* @.output.dense.* @.output.LayerNorm.*",
            "@.attention.self.query.weight @.attention.self.key.weight @.attention.self.value.weight "
            "@.intermediate.dense.weight",
            "bert.pooler.dense.weight",
        ),
        "bert.pooler.dense": "16: bert.pooler.dense.* > classifier.weight",
    }
    | encoder(
        "bert.encoder.layer",
        2,
        {
            "@.attention.self.value": "16: @.attention.self.value.* > @.attention.output.dense.weight",
            "@.intermediate.dense": "24: @.intermediate.dense.* > @.output.dense.weight",
        },
    ),
    slow=True,
)
def bert():
    with quiet():
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            max_position_embeddings=12,
        )
        return BertForSequenceClassification(config), {"input_ids": tokens()}


def gpt2_config():
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=12, n_inner=24, bos_token_id=0, eos_token_id=1
    )


GPT2_LAYERS = encoder(
    "transformer.h",
    2,
    {
        "@.attn.c_attn": "16: @.attn.c_attn.* > @.attn.c_proj.weight",
        "@.mlp.c_fc": "24: @.mlp.c_fc.* > @.mlp.c_proj.weight",
    },
)


@specimen(GPT2_LAYERS, refused={"transformer.wte": "tied"}, slow=True)
def gpt2():
    with quiet():
        from transformers import GPT2LMHeadModel

        return GPT2LMHeadModel(gpt2_config()), {"input_ids": tokens()}


@specimen(
    encoder(
        "base_model.model.transformer.h",
        2,
        {"@.attn.c_attn.lora_A.default": "3: @.attn.c_attn.lora_A.*.weight > @.attn.c_attn.lora_B.*.weight"},
    ),
    slow=True,
)
def gpt2_with_lora():
    with quiet():
        from peft import LoraConfig, get_peft_model
        from transformers import GPT2LMHeadModel

        config = LoraConfig(r=3, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.1)
        return get_peft_model(GPT2LMHeadModel(gpt2_config()), config), {"input_ids": tokens()}


@specimen(
    {
        "model.embed_tokens": stream(
            "model.embed_tokens.* model.norm.*",
            "model.layers",
            2,
            "@.self_attn.o_proj.* @.mlp.down_proj.* @.input_layernorm.* @.post_attention_layernorm.*",
            "@.self_attn.q_proj.weight @.self_attn.k_proj.weight @.self_attn.v_proj.weight "
            "@.mlp.gate_proj.weight @.mlp.up_proj.weight",
            "lm_head.weight",
        )
    }
    | encoder(
        "model.layers",
        2,
        {
            "@.self_attn.v_proj": "8: @.self_attn.v_proj.* > @.self_attn.o_proj.weight",
            "@.mlp.gate_proj": "24: @.mlp.gate_proj.* @.mlp.up_proj.* > @.mlp.down_proj.weight",
        },
    ),
    slow=True,
)
def llama():
    with quiet():
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=30,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=24,
        )
        return LlamaForCausalLM(config), {"input_ids": tokens()}


@specimen(
    encoder(
        "encoder.block",
        2,
        {
            "@.layer.0.SelfAttention.v": "8: @.layer.0.SelfAttention.v.* > @.layer.0.SelfAttention.o.weight",
            "@.layer.1.DenseReluDense.wi": "24: @.layer.1.DenseReluDense.wi.* > @.layer.1.DenseReluDense.wo.weight",
        },
    )
    | encoder(
        "decoder.block",
        2,
        {
            "@.layer.0.SelfAttention.v": "8: @.layer.0.SelfAttention.v.* > @.layer.0.SelfAttention.o.weight",
            "@.layer.1.EncDecAttention.v": "8: @.layer.1.EncDecAttention.v.* > @.layer.1.EncDecAttention.o.weight",
            "@.layer.2.DenseReluDense.wi": "24: @.layer.2.DenseReluDense.wi.* > @.layer.2.DenseReluDense.wo.weight",
        },
    ),
    refused={"shared": ""},
    slow=True,
)
def t5():
    with quiet():
        from transformers import T5Config, T5ForConditionalGeneration

        config = T5Config(
            vocab_size=30, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
        return T5ForConditionalGeneration(config), {"input_ids": tokens(), "labels": tokens()}


@specimen(
    {
        "vit.embeddings.patch_embeddings.projection": stream(
            "vit.embeddings.cls_token vit.embeddings.position_embeddings vit.embeddings.patch_embeddings.projection.* "
            "vit.layernorm.*",
            "vit.layers",
            2,
            "@.attention.o_proj.* @.mlp.fc2.* @.layernorm_before.* @.layernorm_after.*",
            "@.attention.q_proj.weight @.attention.k_proj.weight @.attention.v_proj.weight @.mlp.fc1.weight",
            "classifier.weight",
        )
    }
    | encoder(
        "vit.layers",
        2,
        {
            "@.attention.v_proj": "16: @.attention.v_proj.* > @.attention.o_proj.weight",
            "@.mlp.fc1": "24: @.mlp.fc1.* > @.mlp.fc2.weight",
        },
    ),
    slow=True,
)
def vit_from_transformers():
    with quiet():
        from transformers import ViTConfig, ViTForImageClassification

        config = ViTConfig(
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
            num_labels=3,
        )
        return ViTForImageClassification(config), {"pixel_values": torch.randn(3, 3, 8, 8)}
