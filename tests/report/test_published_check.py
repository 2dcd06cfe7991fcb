"""Published rows put to arithmetic, and the roofline: numbers worked out by hand."""

from dataclasses import replace

import pytest

from vlaprune_bench.cli.report import run
from vlaprune_bench.measure.call_bounds import SHAPES, bounds, floor_ms
from vlaprune_bench.measure.roofline import CARDS, UNVERIFIED, card_of
from vlaprune_bench.report import published_check
from vlaprune_bench.report.published import entries
from vlaprune_bench.report.published_check import CONSISTENT, IMPOSSIBLE, UNKNOWN, WRONG
from vlaprune_bench.types import UserError

OFT, OPENVLA = SHAPES["openvla-oft-7b"], SHAPES["openvla-7b"]


def checked(monkeypatch, *changed):
    monkeypatch.setattr(published_check, "entries", lambda: list(changed))
    return published_check.check_table().rows


def entry(source, method="none", keep=None):
    return next(
        e
        for e in entries()
        if e.source.startswith(source) and e.method == method and keep in (None, e.keep)
    )


def test_the_arithmetic_is_that_of_the_papers():
    assert (OFT.tokens(1), OPENVLA.tokens(1)) == (605, 291)
    assert OFT.prefill_macs() == pytest.approx(4.014e12, rel=1e-3)
    assert OPENVLA.prefill_macs() == pytest.approx(1.906e12, rel=1e-3)
    adp = 2 * OFT.prefill_macs() - OFT.attention_macs()
    assert adp == pytest.approx(7.91e12, rel=3e-3)
    whole = 2 * (OFT.prefill_macs() + OFT.vision_macs)
    assert whole == pytest.approx(8.84e12, rel=0.01)


def test_shapes_are_those_of_the_policies():
    from vlaprune_bench.policies.prismatic.vision import TOWERS
    from vlaprune_bench.policies.random_checkpoint import LLAMA_2_7B

    decoder = OPENVLA.decoder
    assert (LLAMA_2_7B["hidden_size"], LLAMA_2_7B["intermediate_size"]) == (
        decoder.width,
        decoder.mlp_width,
    )
    assert LLAMA_2_7B["num_hidden_layers"] == OPENVLA.layers
    assert LLAMA_2_7B["vocab_size"] == OPENVLA.vocabulary
    for config, shape in zip(TOWERS.values(), OPENVLA.towers, strict=True):
        assert config.depth - 1 == shape.depth
        assert (config.embed_dim, config.mlp_dim) == (shape.width, shape.mlp_width)


@pytest.mark.parametrize(("card", "ms"), [("a100", 28), ("rtx4090", 54), ("h100", 8.9)])
def test_an_unpruned_oft_call_has_its_floor(card, ms):
    assert floor_ms(OFT, CARDS[card]) == pytest.approx(ms, rel=0.03)


def test_a_decoded_token_reads_all_weights():
    decode = next(b for b in bounds(OPENVLA, CARDS["rtx4090"]) if b.stage == "decode")
    assert (decode.limit, decode.pruning_helps) == ("memory", False)
    assert decode.ms / 6 == pytest.approx(13.4, rel=0.03)
    assert floor_ms(OPENVLA, CARDS["rtx4090"], keep=0.0) > 80  # whatever is pruned


def test_tokens_that_leave_later_save_less():
    h100 = CARDS["h100"]
    first, third, never = (bounds(OFT, h100, 0.5, layer)[1].ms for layer in (0, 3, 32))
    assert first < third < never == bounds(OFT, h100)[1].ms
    assert third - first == pytest.approx(3 / 32 * (never - first), rel=1e-6)


def test_every_row_is_judged_and_none_that_is_printed_is_impossible():
    table = published_check.check_table()
    assert len(table.rows) == len(entries())
    verdicts = [row["verdict"] for row in table.rows]
    assert set(verdicts) == {CONSISTENT, UNKNOWN}
    by_source = {(r["source"], r["method"]): r for r in table.rows}
    assert "45% of its peak" in by_source["VLA-ACL", "none"]["latency"]
    assert by_source["TEAM-VLA", "none"]["latency"] == "109 ms: no hardware is named"
    loop = by_source["VLA-Cache (arXiv 2502.02175)", "none"]["latency"]
    assert "layer loop on RTX 4090 takes 48.6 ms" in loop


def test_a_speedup_that_is_a_ratio_of_flops_is_called_so(monkeypatch):
    base, half = entry("ADP table"), entry("ADP table", "adp", 0.5)
    _, row = checked(monkeypatch, base, half)
    assert row["speedup"] == "1.23 is the ratio of its FLOPs (1.230): no timing"
    _, row = checked(monkeypatch, base, replace(half, speedup=1.6))
    assert "no timing" not in row["speedup"]


def test_what_no_card_can_do_is_impossible(monkeypatch):
    base = entry("VLA-ACL")
    (row,) = checked(monkeypatch, replace(base, latency_ms=20.0))
    assert row["verdict"] == IMPOSSIBLE
    assert "takes 28.3 ms at least" in row["latency"]
    (row,) = checked(monkeypatch, replace(base, latency_ms=20.0, hardware="B200"))
    assert row["verdict"] == CONSISTENT
    (row,) = checked(monkeypatch, replace(base, hardware="Orin"))
    assert row["verdict"] == UNKNOWN
    assert "peak rates of Orin are not known" in row["latency"]


def test_flops_that_fit_no_definition_are_impossible(monkeypatch):
    base = entry("VLA-Pruner v5 Table 1")
    (row,) = checked(monkeypatch, replace(base, flops=6e12))
    assert row["verdict"] == WRONG
    # a source counts all its rows alike: MAC for none, so 2 x MAC of an eighth does not pass
    pruned = entry("VLA-Pruner v5 Table 1", "fastv", 0.5)
    _, row = checked(monkeypatch, base, replace(pruned, flops=4.6e12))
    assert row["verdict"] == WRONG
    (row,) = checked(monkeypatch, replace(pruned, flops=4.6e12))
    assert row["verdict"] == CONSISTENT


def test_differences_within_sampling_noise_are_called_so(monkeypatch):
    base, half = entry("ADP table"), entry("ADP table", "adp", 0.5)
    _, row = checked(monkeypatch, base, half)
    assert "within noise; 3 of 4 suites" in row["success"]
    base, pruned = entry("SAFE-Pruner"), entry("SAFE-Pruner", "safe-pruner")
    _, row = checked(monkeypatch, base, pruned)
    assert row["success"].startswith("-1.0 points")  # of the averages alone


def test_published_rows_have_the_trials_they_were_made_of():
    wide, narrow = entry("SieRaX", "oracle-greedy"), entry("SieRaX", "none")
    width = {e.method: e.rates["libero_spatial"] for e in (wide, narrow)}
    assert width["oracle-greedy"].high - width["oracle-greedy"].low > 0.07
    assert width["none"].high - width["none"].low < 0.03


def test_peak_rates_name_their_source():
    for card in CARDS.values():
        assert card.source
    assert card_of("RTX 4090?") is CARDS["rtx4090"]
    assert card_of("a card") is None
    assert CARDS["rtx5090"].source == UNVERIFIED


def test_the_command_says_where_pruning_cannot_help(capsys):
    run(["roofline", "--shape", "openvla-7b", "--gpu", "rtx4090", "--format", "markdown"])
    text = capsys.readouterr().out
    assert "Pruning cannot help vision (2.5 ms" in text
    assert "decode (78.7 ms" in text
    assert "Nor the prefill below keep 0.49" in text
    assert "launching kernels" in text
    run(["published", "--check", "--format", "csv"])
    assert capsys.readouterr().out.startswith("source,backbone,method,keep,verdict")
    with pytest.raises(UserError, match="--gpu is h10"):
        run(["roofline", "--gpu", "h10"])
    with pytest.raises(UserError, match="--shape is oft"):
        run(["roofline", "--shape", "oft"])
