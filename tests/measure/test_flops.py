"""Multiply-adds from shapes."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from vlaprune_bench.measure.flops import (
    DecoderShape,
    count_flops,
    decoder_layer_macs,
    llm_prefill_macs,
    mlp_macs,
    vit_macs,
)

LLAMA_7B = DecoderShape(4096, 11008, 4096, 4096)


@pytest.mark.parametrize(("n", "tera"), [(605, 4.01), (291, 1.907)])
def test_published_prefills(n, tera):
    assert llm_prefill_macs([n] * 32, LLAMA_7B) / 1e12 == pytest.approx(tera, abs=5e-3)


def test_gated_formula():
    n, d, m = 100, 4096, 11008
    assert decoder_layer_macs(n, LLAMA_7B) == 4 * n * d**2 + 2 * n**2 * d + 3 * n * d * m


def test_grouped_heads_make_keys_and_values_cheaper():
    grouped = DecoderShape(4096, 11008, 4096, 1024)
    saved = decoder_layer_macs(10, LLAMA_7B) - decoder_layer_macs(10, grouped)
    assert saved == 2 * 10 * 4096 * 3072


def test_every_layer_counts_with_its_own_tokens():
    assert llm_prefill_macs([5, 3], LLAMA_7B) == sum(
        decoder_layer_macs(n, LLAMA_7B) for n in (5, 3)
    )


def test_queries_may_attend_to_more_keys():
    n, keys, d, m = 3, 100, 4096, 11008
    expected = 4 * n * d**2 + 2 * n * keys * d + 3 * n * d * m
    assert decoder_layer_macs(n, LLAMA_7B, keys) == expected
    assert llm_prefill_macs([keys, n], LLAMA_7B, [keys, keys]) == expected + decoder_layer_macs(
        keys, LLAMA_7B
    )


def test_siglip_tower():
    # 2 x MAC of the 26 blocks that run of so400m at 224 pixels: about 0.22 TFLOP
    assert 2 * vit_macs(256, 0, 26, 1152, 4304, 588) / 1e12 == pytest.approx(0.2146, rel=0.02)


def test_counter_sees_fused_attention_linear_and_convolution():
    q = torch.randn(1, 2, 30, 8)
    linear, convolution = torch.nn.Linear(8, 5), torch.nn.Conv2d(3, 4, 2, stride=2)
    with torch.inference_mode(), count_flops() as counter:
        scaled_dot_product_attention(q, q, q)
        linear(q[0, 0])
        convolution(torch.randn(1, 3, 8, 8))
    attention = 2 * 2 * 30 * 30 * 8
    convolved = mlp_macs(16, 12, 4)
    assert counter.get_total_flops() == 2 * (attention + mlp_macs(30, 8, 5) + convolved)
