"""robosuite's OSC_POSE arm controller and its physics substeps, fused into compiled functions.

The arithmetic is robosuite 1.4.1's, operation by operation and with its own compiled kernels
(`robosuite.utils.control_utils`), so that results are equal bit for bit. That includes the memory
order of matrices: BLAS sums a Fortran-ordered matrix in another order than a C-ordered one.

What a physics substep of robosuite does is this: `mj_forward`, `mj_forward` again for the
controller, torques, and `mj_step`, which begins with a third `mj_forward`. All three see the same
positions and velocities, so their position and velocity stages are equal and one is enough. The
solver stages are not dropped: each starts from the one before it (`qacc_warmstart`), and its last
bits depend on that.

Importing this module imports robosuite: do so after `package.import_libero`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import mujoco
import numba
import numpy as np
from numba import types
from robosuite.utils.control_utils import (
    nullspace_torques,
    opspace_matrices,
    orientation_error,
)

from vlaprune_bench.sim import compiled

# So that compiled code finds MuJoCo's functions by name; the library is loaded already.
for _library in Path(mujoco.__file__).parent.glob("libmujoco*.*"):
    llvmlite.binding.load_library_permanently(str(_library))

_address, _int = types.intp, types.int32
_forward_skip = types.ExternalFunction("mj_forwardSkip", types.void(_address, _address, _int, _int))
_euler = types.ExternalFunction("mj_Euler", types.void(_address, _address))
_jac_site = types.ExternalFunction(
    "mj_jacSite", types.void(_address, _address, _address, _address, _int)
)
_STAGE_NONE, _STAGE_VEL = int(mujoco.mjtStage.mjSTAGE_NONE), int(mujoco.mjtStage.mjSTAGE_VEL)
_MAX_VALUE = float(mujoco.mjMAXVAL)

FINGER_SPEED = 0.01
"""Change of a finger's normalised target in a substep (robosuite's PandaGripper)."""


class Arm(NamedTuple):
    """Addresses, views into MuJoCo's data, constants, and the controller's own state.

    Views stay valid as long as the simulation lives. Shapes: n joints of the arm, nv degrees of
    freedom of the model.
    """

    # MuJoCo
    model: int
    data: int
    site: int
    qpos: np.ndarray
    qvel: np.ndarray
    qacc: np.ndarray
    ctrl: np.ndarray
    bias: np.ndarray
    packed_mass: np.ndarray
    site_pos: np.ndarray
    site_mat: np.ndarray
    # constants
    qpos_index: np.ndarray
    dof_index: np.ndarray
    mass_index: np.ndarray
    """(n, n): where the packed inertia holds each element of the arm's mass matrix."""
    torque_index: np.ndarray
    torque_low: np.ndarray
    torque_high: np.ndarray
    finger_index: np.ndarray
    finger_middle: np.ndarray
    finger_scale: np.ndarray
    kp: np.ndarray
    kd: np.ndarray
    # scratch: Jacobians of the end effector over all degrees of freedom, (3, nv)
    jac_pos: np.ndarray
    jac_rot: np.ndarray
    # state: what the controller saw last, and what it wants
    pos: np.ndarray
    mat: np.ndarray
    vel_pos: np.ndarray
    vel_rot: np.ndarray
    joint_pos: np.ndarray
    joint_vel: np.ndarray
    arm_jac_pos: np.ndarray
    """(3, n), Fortran order, as the three below."""
    arm_jac_rot: np.ndarray
    arm_jac: np.ndarray
    mass: np.ndarray
    goal_pos: np.ndarray
    goal_mat: np.ndarray
    rest: np.ndarray
    """(n,) joint positions the null space is drawn to."""
    fingers: np.ndarray
    """(2,) normalised targets of the fingers."""

    def state(self) -> tuple[Any, ...]:
        """The arrays that make up the controller's state, to copy from and into."""
        return self[self._fields.index("pos") :]


def make_arm(inner: Any) -> Arm:
    """Views and buffers for the robot of a LIBERO environment; the state is robosuite's of now.

    Raises:
        RuntimeError: the controller is not the one reproduced here.
    """
    (robot,) = inner.robots
    osc = robot.controller
    if (osc.name, osc.impedance_mode, osc.uncoupling, osc.use_delta) != (
        "OSC_POSE",
        "fixed",
        True,
        True,
    ) or any((osc.interpolator_pos, osc.interpolator_ori, inner.sim.model.na)):
        raise RuntimeError("the fast path reproduces robosuite's OSC_POSE with fixed gains only.")
    model, data = inner.sim.model._model, inner.sim.data._data
    site = inner.sim.model.site_name2id(osc.eef_name)
    dofs = np.array(osc.qvel_index, dtype=np.int64)
    n = len(dofs)
    low, high = robot.torque_limits
    finger_index = np.array(robot._ref_joint_gripper_actuator_indexes, dtype=np.int64)
    finger_range = model.actuator_ctrlrange[finger_index]
    arm = Arm(
        model=model._address,
        data=data._address,
        site=site,
        qpos=data.qpos,
        qvel=data.qvel,
        qacc=data.qacc,
        ctrl=data.ctrl,
        bias=data.qfrc_bias,
        packed_mass=data.qM,
        site_pos=data.site_xpos[site],
        site_mat=data.site_xmat[site],
        qpos_index=np.array(osc.qpos_index, dtype=np.int64),
        dof_index=dofs,
        mass_index=_mass_index(model, dofs),
        torque_index=np.array(robot._ref_joint_actuator_indexes, dtype=np.int64),
        torque_low=np.array(low),
        torque_high=np.array(high),
        finger_index=finger_index,
        finger_middle=0.5 * (finger_range[:, 1] + finger_range[:, 0]),
        finger_scale=0.5 * (finger_range[:, 1] - finger_range[:, 0]),
        kp=np.array(osc.kp),
        kd=np.array(osc.kd),
        jac_pos=np.zeros((3, model.nv)),
        jac_rot=np.zeros((3, model.nv)),
        pos=np.zeros(3),
        mat=np.zeros((3, 3)),
        vel_pos=np.zeros(3),
        vel_rot=np.zeros(3),
        joint_pos=np.zeros(n),
        joint_vel=np.zeros(n),
        arm_jac_pos=np.zeros((3, n), order="F"),
        arm_jac_rot=np.zeros((3, n), order="F"),
        arm_jac=np.zeros((6, n), order="F"),
        mass=np.zeros((n, n), order="F"),
        goal_pos=np.zeros(3),
        goal_mat=np.zeros((3, 3)),
        rest=np.zeros(n),
        fingers=np.zeros(2),
    )
    read_state(arm, robot)
    return arm


def read_state(arm: Arm, robot: Any) -> None:
    """Copy the state of robosuite's controller and gripper."""
    osc = robot.controller
    values = (
        osc.ee_pos, osc.ee_ori_mat, osc.ee_pos_vel, osc.ee_ori_vel, osc.joint_pos, osc.joint_vel,
        osc.J_pos, osc.J_ori, osc.J_full, osc.mass_matrix, osc.goal_pos, osc.goal_ori,
        osc.initial_joint, robot.gripper.current_action,
    )  # fmt: skip
    for array, value in zip(arm.state(), values, strict=True):
        array[...] = value


def _mass_index(model: Any, dofs: np.ndarray) -> np.ndarray:
    """Positions in MuJoCo's packed inertia, which lists each dof's ancestors after it."""
    place = {int(dof): k for k, dof in enumerate(dofs)}
    index = np.zeros((len(dofs), len(dofs)), dtype=np.int64)
    for dof in place:
        address, ancestor = int(model.dof_Madr[dof]), dof
        while ancestor >= 0:
            if ancestor in place:
                index[place[dof], place[ancestor]] = index[place[ancestor], place[dof]] = address
            address, ancestor = address + 1, int(model.dof_parentid[ancestor])
    return index


compiled.watch()


@numba.njit(cache=True)
def begin(arm: Arm, look: bool) -> bool:
    """The first substep up to the point where the controller's goal is set.

    Args:
        arm: Views and buffers.
        look: Whether the controller looks at the state; right after a reset it does not.

    Returns:
        False where the state is bad: nothing was done then.
    """
    if _bad(arm.qpos) or _bad(arm.qvel):
        return False
    _forward_skip(arm.model, arm.data, _STAGE_NONE, 1)
    if look:
        _forward_skip(arm.model, arm.data, _STAGE_VEL, 1)
        _observe(arm)
    return True


@numba.njit(cache=True)
def advance(arm: Arm, finger_sign: float, substeps: int, begun: bool) -> bool:
    """Run physics substeps with the controller in the loop.

    Args:
        arm: Views and buffers; the goal is set.
        finger_sign: Sign of the gripper action: 1 closes.
        substeps: How many.
        begun: Whether `begin` did the first half of the first one.

    Returns:
        False where the state or an acceleration became bad: the rest was not done then.
    """
    for substep in range(substeps):
        if (substep > 0 or not begun) and not begin(arm, True):
            return False
        _actuate(arm, finger_sign)
        _forward_skip(arm.model, arm.data, _STAGE_VEL, 1)
        if _bad(arm.qacc):
            return False
        _euler(arm.model, arm.data)
    return True


@numba.njit(cache=True)
def _observe(arm: Arm) -> None:
    """What the controller reads: pose, velocity, Jacobians and mass matrix."""
    _jac_site(arm.model, arm.data, arm.jac_pos.ctypes.data, arm.jac_rot.ctypes.data, arm.site)
    arm.pos[:] = arm.site_pos
    arm.mat[:] = arm.site_mat.reshape(3, 3)
    arm.vel_pos[:] = np.dot(arm.jac_pos, arm.qvel)
    arm.vel_rot[:] = np.dot(arm.jac_rot, arm.qvel)
    for j in range(len(arm.dof_index)):
        dof = arm.dof_index[j]
        arm.joint_pos[j] = arm.qpos[arm.qpos_index[j]]
        arm.joint_vel[j] = arm.qvel[dof]
        for i in range(3):
            arm.arm_jac_pos[i, j] = arm.arm_jac[i, j] = arm.jac_pos[i, dof]
            arm.arm_jac_rot[i, j] = arm.arm_jac[i + 3, j] = arm.jac_rot[i, dof]
        for i in range(len(arm.dof_index)):
            arm.mass[i, j] = arm.packed_mass[arm.mass_index[i, j]]


@numba.njit(cache=True)
def _actuate(arm: Arm, finger_sign: float) -> None:
    """Torques towards the goal (operational space control) and the fingers' targets."""
    turn = orientation_error(arm.goal_mat, arm.mat)
    force = (arm.goal_pos - arm.pos) * arm.kp[:3] + (-arm.vel_pos) * arm.kd[:3]
    torque = turn * arm.kp[3:] + (-arm.vel_rot) * arm.kd[3:]
    _, lambda_pos, lambda_rot, nullspace = opspace_matrices(
        arm.mass, arm.arm_jac, arm.arm_jac_pos, arm.arm_jac_rot
    )
    wrench = np.empty(6)
    wrench[:3] = np.dot(lambda_pos, force)
    wrench[3:] = np.dot(lambda_rot, torque)
    torques = np.dot(arm.arm_jac.T, wrench) + arm.bias[arm.dof_index]
    torques += nullspace_torques(arm.mass, nullspace, arm.rest, arm.joint_pos, arm.joint_vel)
    for j in range(len(arm.torque_index)):
        clipped = min(max(torques[j], arm.torque_low[j]), arm.torque_high[j])
        arm.ctrl[arm.torque_index[j]] = clipped
    for k in range(2):
        # the two fingers move against each other
        change = (2.0 * k - 1.0) * FINGER_SPEED * finger_sign
        arm.fingers[k] = min(max(arm.fingers[k] + change, -1.0), 1.0)
        arm.ctrl[arm.finger_index[k]] = arm.finger_middle[k] + arm.finger_scale[k] * arm.fingers[k]


@numba.njit(cache=True)
def _bad(values: np.ndarray) -> bool:
    """MuJoCo's own test of a state: not a number, or too large."""
    for value in values:  # noqa: SIM110 - numba compiles no `any` of a generator
        if not abs(value) <= _MAX_VALUE:
            return True
    return False
