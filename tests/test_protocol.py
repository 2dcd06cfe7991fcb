"""The reference protocol's numbers, as the OpenVLA(-OFT) evaluation has them, and the profiles."""

from dataclasses import asdict

from vlaprune_bench.types import OPENVLA_PROTOCOL, PROTOCOLS, SUITES


def test_the_reference_protocols_numbers():
    p = OPENVLA_PROTOCOL
    assert (p.settle_steps, p.settle_action) == (10, (0, 0, 0, 0, 0, 0, -1))
    assert p.budgets == {
        "libero_spatial": 220,
        "libero_object": 280,
        "libero_goal": 300,
        "libero_10": 520,
        "libero_90": 400,
    }
    assert (p.env_seed, p.policy_seed, p.camera_size, p.rotate_180) == (0, 7, 256, True)
    assert (p.jpeg_quality, p.resize, p.crop_area, p.execute_steps) == (95, "lanczos3", 0.9, 8)


def test_profiles_differ_only_where_the_table_says():
    base = asdict(OPENVLA_PROTOCOL)

    def differing(name):
        return {key for key, value in asdict(PROTOCOLS[name]).items() if value != base[key]}

    shared = {"name", "env_seed", "jpeg_quality", "resize", "crop_area"}
    assert differing("openpi") == shared | {"execute_steps"}
    assert differing("lerobot") == shared | {"budgets"}
    assert PROTOCOLS["lerobot"].budgets["libero_spatial"] == 280
    assert set(PROTOCOLS["lerobot"].budgets) == set(SUITES)
