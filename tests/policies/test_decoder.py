"""The language model's parts: the cheap query-key score, the probe, the published shapes."""

import pytest
import torch

from vlaprune_bench.measure.flops import count_flops, llm_prefill_macs
from vlaprune_bench.policies.checkpoint import on_meta
from vlaprune_bench.policies.prismatic.model import Prismatic
from vlaprune_bench.policies.prismatic.vision import TOWERS, Block
from vlaprune_bench.policies.transformer.llama import LanguageModel, llama_config
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.types import TokenLayout

LAYOUT = TokenLayout(((3, 3),), n_prompt=5, has_proprio=True, n_actions=4, has_stop=True)


@pytest.fixture(params=[(4, False), (2, False), (2, True)], ids=["all", "grouped", "grouped-bias"])
def model(request):
    kv_heads, bias = request.param
    torch.manual_seed(0)
    config = {
        "vocab_size": 10,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": kv_heads,
        "attention_bias": bias,
    }
    model = LanguageModel(config, "sdpa").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def test_mean_query_key(model):
    x = torch.randn(LAYOUT.length, 32)
    decoder = CallDecoder(model, x[None], LAYOUT)
    layer = model.model.layers[1]
    heads = [
        projection(layer.input_layernorm(x)).unflatten(-1, (-1, 8)).transpose(0, 1)
        for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj)
    ]
    q_HND, k_HND = heads[0], heads[1].repeat_interleave(4 // len(heads[1]), dim=0)
    plain = (q_HND @ k_HND.transpose(1, 2) / 8**0.5).mean((0, 1))
    torch.testing.assert_close(decoder.mean_query_key(1, queries=x, keys=x), plain)


def test_probe_order_and_cost(model):
    x = torch.randn(1, LAYOUT.length, 32)
    decoder = CallDecoder(model, x, LAYOUT)
    # BOS 0, patches 1-9, proprio 10, prompt 11-14, actions 15-18, stop 19
    torch.testing.assert_close(decoder.probe(0), x[0, [*range(1, 10), 0, 11, 12, 13, 14, 19]])
    assert decoder.scoring_macs == 0
    with count_flops() as counter:
        deep = decoder.probe(2)
    assert deep.shape == (15, 32)
    # some releases of transformers compute the rotation as a (tiny) matrix product
    assert counter.get_total_flops() == pytest.approx(2 * decoder.scoring_macs, rel=0.001)
    assert decoder.scoring_macs == llm_prefill_macs([LAYOUT.length - 1] * 2, model.shape)


def test_absent_keys_are_llama_2_7b():
    config = llama_config({"model_type": "llama", "vocab_size": 32064}, "sdpa")
    shape = (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    assert shape == (4096, 11008, 32)
    assert config.rope_parameters["rope_theta"] == 10000.0


def test_published_7b_has_the_published_number_of_parameters():
    config = {"timm_model_ids": list(TOWERS), "text_config": {"vocab_size": 32064}}
    with on_meta():
        model = Prismatic(config, "sdpa")
        # stored beside it and not read: logits, last blocks, final norms, SigLIP's pooling
        dino, siglip = (Block(c, "sdpa") for c in TOWERS.values())
    numbers = [sum(p.numel() for p in module.parameters()) for module in (model, dino, siglip)]
    w, h = 1152, 4304
    pooling = w + 2 * w * (w + 1) + 2 * w * (w + 1) + 2 * w + h * (w + 1) + w * (h + 1)
    unread = 32064 * 4096 + 2 * 1024 + 2 * w + pooling
    assert sum(numbers) + unread == 7_541_237_184
