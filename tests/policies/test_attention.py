"""Attention maps of chosen rows are those of full eager attention; hooks do not stay."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaModel

from vlaprune_bench.policies import load_policy
from vlaprune_bench.policies.transformer import scoring as decoder_module
from vlaprune_bench.policies.transformer.llama import LanguageModel, llama_config
from vlaprune_bench.policies.transformer.scoring import CallDecoder
from vlaprune_bench.pruning.base import Selection
from vlaprune_bench.types import TokenLayout

OFT = TokenLayout(((4, 4),), n_prompt=5, has_proprio=True, n_actions=4, has_stop=True)
OPENVLA = TokenLayout(((4, 4),), n_prompt=5, n_generated=3)
LAYOUTS = {False: OFT, True: OPENVLA}
TEXT = {
    "vocab_size": 10,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}


def make(causal, kv_heads, attention="sdpa"):
    torch.manual_seed(0)
    text = {**TEXT, "num_key_value_heads": kv_heads}
    model = LanguageModel(text, attention, sees="causal" if causal else "all").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=0.3)
    return model


def embeddings(layout):
    return torch.randn(1, layout.length, 32, generator=torch.Generator().manual_seed(1))


def full_maps(model):
    """Collects (heads, queries, keys) of every layer of an eager model as it runs."""
    maps = []
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda _m, _i, out: maps.append(out[1][0]))
    return maps


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_transformers_output_attentions(causal, kv_heads):
    layout, model = LAYOUTS[causal], make(causal, kv_heads)
    x = embeddings(layout)
    config = llama_config({**TEXT, "num_key_value_heads": kv_heads}, "eager")
    reference = LlamaModel(config).eval()
    reference.load_state_dict(model.model.state_dict())
    mask = None if causal else torch.zeros(1, 1, layout.length, layout.length)
    with torch.no_grad():
        output = reference(inputs_embeds=x, attention_mask=mask, output_attentions=True)
    decoder = CallDecoder(model, x, layout, tapped_layers=(0, 2))
    prefill = decoder.prefill(lambda _: None)
    torch.testing.assert_close(prefill.hidden_BND, output.last_hidden_state, rtol=1e-4, atol=1e-5)
    rows = torch.tensor([0, 17, layout.length - 1, 5])
    for layer in (0, 2):
        expected = output.attentions[layer][0].mean(0)[rows, 1:17]
        torch.testing.assert_close(decoder.attention(layer, rows), expected)


@pytest.mark.parametrize("renumber", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_after_pruning(causal, renumber, monkeypatch):
    monkeypatch.setattr(decoder_module, "SCORES", 200)  # so that rows come in several parts
    layout = LAYOUTS[causal]
    x = embeddings(layout)
    kept = {1: torch.tensor([0, 3, 4, 9, 15]), 3: torch.tensor([3, 15])}
    eager = make(causal, 2, "eager")
    maps = full_maps(eager)
    chosen = {layer: Selection(index) for layer, index in kept.items()}
    CallDecoder(eager, x, layout).prefill(chosen.get, kept, renumber)

    decoder = CallDecoder(make(causal, 2), x, layout, tapped_layers=(0, 1, 2, 3))
    decoder.prefill(chosen.get, kept, renumber)
    for layer in range(4):
        there = {0: torch.arange(16), 3: kept[3]}.get(layer, kept[1])
        left = torch.cat([torch.tensor([0]), 1 + there, torch.arange(17, layout.length)])
        assert torch.equal(decoder.rows(layer), left)
        expected = torch.zeros(len(left), 16)
        expected[:, there] = maps[layer].mean(0)[:, 1 : 1 + len(there)]
        torch.testing.assert_close(decoder.attention(layer, left), expected)
    with pytest.raises(ValueError, match="did not compute"):
        decoder.attention(1, torch.tensor([2]))


def test_decoded_rows_are_those_of_a_longer_prefill():
    model = make(True, 2)
    x = embeddings(OPENVLA)
    more = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    decoder = CallDecoder(model, x, OPENVLA, tapped_layers=(1, 3))
    decoder.prefill(lambda _: None)
    states = torch.cat([decoder.step(token[None]) for token in more])

    longer = TokenLayout(((4, 4),), n_prompt=8)
    whole = CallDecoder(model, torch.cat([x, more[None]], dim=1), longer, tapped_layers=(1, 3))
    expected = whole.prefill(lambda _: None).hidden_BND[0, -3:]
    torch.testing.assert_close(states, expected)
    rows = torch.arange(OPENVLA.length + 3)
    for layer in (1, 3):
        torch.testing.assert_close(decoder.attention(layer, rows), whole.attention(layer, rows))
    assert list(OPENVLA.action_rows) == [OPENVLA.length - 1, OPENVLA.length, OPENVLA.length + 1]


@pytest.mark.parametrize("renumber", [False, True])
def test_decode_steps_see_what_each_layer_kept(renumber):
    """As if the kept tokens were all there is: positions go on where the sequence ended."""
    model = make(True, 4)
    x, token = embeddings(OPENVLA), torch.randn(1, 32)
    kept = torch.tensor([1, 2, 7])
    decoder = CallDecoder(model, x, OPENVLA)
    decoder.prefill({2: Selection(kept)}.get, (2,), renumber)
    state = decoder.step(token)

    length = OPENVLA.length
    rows = torch.cat([torch.tensor([0]), 1 + kept, torch.arange(17, length + 1)])
    positions = torch.arange(len(rows)) if renumber else rows
    both = torch.cat([x, token[None]], dim=1)
    before = model.run_layers(both, torch.arange(length + 1), range(2))
    after = model.run_layers(before[:, rows], positions, range(2, 4))
    torch.testing.assert_close(state, model.model.norm(after)[:, -1])


def test_cost_and_hooks(keep):
    model = make(False, 2)
    decoder = CallDecoder(model, embeddings(OFT), OFT, tapped_layers=(1,))

    def fail(layer):
        raise RuntimeError("a method failed")

    hooks = [layer.self_attn.q_proj._forward_hooks for layer in model.model.layers]
    with pytest.raises(RuntimeError, match="a method failed"):
        decoder.prefill(fail, (2,))
    assert not any(hooks)
    decoder = CallDecoder(model, embeddings(OFT), OFT, tapped_layers=(1,))
    decoder.prefill(lambda _: None)
    assert not any(hooks)
    with FlopCounterMode(display=False) as counter:
        decoder.attention(1, torch.arange(7))
    assert decoder.scoring_macs == 7 * OFT.length * 32
    # some releases of transformers compute the rotation as a (tiny) matrix product
    assert counter.get_total_flops() == pytest.approx(2 * decoder.scoring_macs, rel=0.02)
    with pytest.raises(ValueError, match="layer 0 is not tapped"):
        decoder.attention(0, torch.arange(7))
    with pytest.raises(ValueError, match="layer 4 has not run"):
        decoder.rows(4)
    with pytest.raises(ValueError, match="no decoder layer"):
        CallDecoder(model, embeddings(OFT), OFT, tapped_layers=(4,))


def test_golden_model(golden, forward_tensors, run_golden, keep):
    """The policy's own pass: taps asked for by the method, compared with eager attention."""

    class Tapped(keep):
        tapped_layers = (0, 15)

    folder = str(golden / "ckpt-oft-tiny")
    kept = {3: list(range(0, 512, 5))}
    eager = load_policy(folder, keep(kept), suite="libero_spatial", attention="eager")
    maps = full_maps(eager.prismatic.language_model)
    run_golden(eager, forward_tensors, 0)
    result = run_golden(
        load_policy(folder, Tapped(kept), suite="libero_spatial"), forward_tensors, 0
    )
    for layer, there in ((0, torch.arange(512)), (15, torch.tensor(kept[3]))):
        rows = torch.arange(513, 520)
        ours = result.decoder.attention(layer, rows)
        k = len(there)
        expected = maps[layer].mean(0)[1 + k : 8 + k, 1 : 1 + k]
        torch.testing.assert_close(ours[:, there], expected, rtol=1e-4, atol=1e-6)
        assert ours.count_nonzero(dim=1).tolist() == [k] * 7
