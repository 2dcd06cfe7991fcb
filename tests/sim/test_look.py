"""What `look.xml` of the lite assets changes, and what it must not."""

from __future__ import annotations

import importlib.util
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from vlaprune_bench.lite.look import LOOK, cluster, read_mesh
from vlaprune_bench.sim.assets import AssetSet
from vlaprune_bench.sim.libero import LiberoTask
from vlaprune_bench.sim.look import dress
from vlaprune_bench.sim.tasks import TaskKey


def test_vertices_of_one_cube_become_their_mean():
    vertices = np.array([(0, 0, 0), (0.2, 0, 0), (5, 0, 0), (0, 5, 0), (0, 5.5, 0)], float)
    triangles = np.array([(0, 2, 3), (1, 2, 4), (0, 1, 2), (2, 3, 4)])
    merged, kept = cluster(vertices, triangles, 1.0)
    assert sorted(map(tuple, merged.round(2).tolist())) == [
        (0.0, 5.25, 0.0),
        (0.1, 0.0, 0.0),
        (5.0, 0.0, 0.0),
    ]
    # two lose their area, and two become the same one
    assert kept.shape == (1, 3)
    # the corners go round as they did
    normal = np.cross(*(merged[kept[0, [1, 2]]] - merged[kept[0, 0]]))
    assert normal[2] > 0


def test_a_face_that_is_no_triangle_is_not_dropped(tmp_path):
    square = tmp_path / "square.obj"
    square.write_text("v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nf 1/1 2/2 3/3\nf 1 2 3 4\n")
    with pytest.raises(ValueError, match=r"square\.obj: a face of it is no triangle"):
        read_mesh(square)


def test_a_collision_mesh_stays(tmp_path):
    (tmp_path / LOOK).write_text(
        '<look><quality offsamples="0"/><mesh file="robot/a.obj" instead_of="models/a.stl"/></look>'
    )
    root = ET.fromstring(
        '<mujoco><asset><mesh name="solid" file="/x/robosuite/models/a.stl"/>'
        '<mesh name="seen" file="/x/robosuite/models/a.stl"/></asset>'
        '<worldbody><geom mesh="solid"/><geom mesh="seen" group="1"/></worldbody></mujoco>'
    )
    dress(root, tmp_path)
    files = {mesh.attrib["name"]: mesh.attrib["file"] for mesh in root.iter("mesh")}
    assert files == {"solid": "/x/robosuite/models/a.stl", "seen": str(tmp_path / "robot/a.obj")}
    assert root.find("visual/quality").attrib == {"offsamples": "0"}


def test_vertices_stay_within_a_cube_of_published_ones(lite_assets):
    found = importlib.util.find_spec("robosuite")
    assert found is not None
    assert found.origin is not None
    package = Path(found.origin).parent
    meshes = list(ET.parse(lite_assets.path / LOOK).getroot().iter("mesh"))
    assert len(meshes) > 15
    for mesh in meshes:
        vertices, triangles = read_mesh(lite_assets.path / mesh.attrib["file"])
        published, more = read_mesh(package / mesh.attrib["instead_of"])
        cube = 0.003 if "gripper" in mesh.attrib["instead_of"] else 0.010
        away, _ = cKDTree(published).query(vertices)
        assert away.max() < 3**0.5 * cube
        assert len(triangles) < len(more)
        assert triangles.max() < len(vertices)


@pytest.mark.sim
@pytest.mark.parametrize("suite", ["libero_spatial", "libero_object"])
def test_physics_is_that_of_the_published_robot(lite_assets, tmp_path, suite):
    plain = tmp_path / "plain"
    shutil.copytree(lite_assets.path, plain)
    (plain / LOOK).unlink()
    seen = []
    for assets in (lite_assets, AssetSet(kind="lite", path=plain, hash="0" * 16)):
        rng = np.random.default_rng(7)
        with LiberoTask(TaskKey(suite, 0, assets)) as task:
            task.reset(0)
            model = task.inner.sim.model._model
            states = []
            for _ in range(15):
                task.step(np.append(rng.uniform(-1, 1, 6), 1.0), look=False)
                data = task.inner.sim.data._data
                states.append(np.concatenate([data.qpos, data.qvel]))
            seen.append((np.array(states), model.body_inertia.copy(), model.body_mass.copy(),
                         model.vis.quality.offsamples, model.nmeshface))  # fmt: skip
    (states, inertia, mass, samples, faces), published = seen
    assert np.array_equal(states, published[0])
    assert np.array_equal(inertia, published[1])
    assert np.array_equal(mass, published[2])
    assert (samples, published[3]) == (0, 4)
    assert faces < published[4] / 3
