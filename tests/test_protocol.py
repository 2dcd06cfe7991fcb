"""The reference protocol's numbers, as the OpenVLA(-OFT) evaluation has them, and the profiles."""

from dataclasses import asdict
from pathlib import Path

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
    assert (p.env_seed, p.seed_of(3), p.camera_size, p.rotate_180) == (0, 0, 256, True)
    assert (p.jpeg_quality, p.resize, p.crop_area, p.execute_steps) == (95, "lanczos3", 0.9, 8)


def test_profiles_differ_only_where_the_table_says():
    base = asdict(OPENVLA_PROTOCOL)

    def differing(name):
        return {key for key, value in asdict(PROTOCOLS[name]).items() if value != base[key]}

    shared = {"name", "env_seed", "jpeg_quality", "resize", "crop_area"}
    assert differing("openpi") == shared | {"execute_steps", "conventions"}
    assert differing("lerobot") == shared | {
        "budgets",
        "camera_size",
        "antialias",
        "execute_steps",
        "seed_per_trial",
        "state_dtype",
    }
    assert [PROTOCOLS["lerobot"].seed_of(trial) for trial in (0, 7)] == [1000, 1007]
    assert PROTOCOLS["openpi"].seed_of(7) == 7
    assert PROTOCOLS["lerobot"].budgets["libero_spatial"] == 280
    assert set(PROTOCOLS["lerobot"].budgets) == set(SUITES)


def test_the_documented_table_is_the_data():
    page = (Path(__file__).parents[1] / "docs" / "protocol.md").read_text()
    head, _, *rows = page[page.index("| | openvla |") :].partition("\n\n")[0].split("\n")
    names = [cell.strip() for cell in head.split("|")[2:-1]]
    assert names == list(PROTOCOLS)
    table = {}
    for row in rows:
        what, *cells = (cell.strip() for cell in row.split("|")[1:-1])
        table[what] = dict(zip(names, cells, strict=True))
    for name, p in PROTOCOLS.items():
        assert table["environment seed"][name].startswith(f"{p.env_seed}")
        assert table["budget of libero_spatial"][name] == str(p.budgets["libero_spatial"])
        quality = "none" if p.jpeg_quality is None else f"quality {p.jpeg_quality}"
        assert table["JPEG round trip"][name] == quality
        assert table["resize to 224"][name].startswith(p.resize)
        assert ("no antialias" in table["resize to 224"][name]) == (not p.antialias)
        assert table["rendered frames"][name] == str(p.camera_size)
        assert table["state"][name] == p.state_dtype
        assert table["prompts and normalisation of flow policies"][name] == p.conventions
        crop = "none" if p.crop_area == 1 else f"{p.crop_area} of the area"
        assert table["centre crop"][name] == crop
    assert table["executed per call"]["openpi"] == str(PROTOCOLS["openpi"].execute_steps)
