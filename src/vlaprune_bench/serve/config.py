"""What is served, and how."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from vlaprune_bench.config import nearest
from vlaprune_bench.policies import own_policies
from vlaprune_bench.policies.declared import declared_protocol
from vlaprune_bench.pruning import Pruner
from vlaprune_bench.pruning.none import NoPruning
from vlaprune_bench.types import PROTOCOLS, SUITES, EvalProtocol, UserError

API_KEY = "VLAPRUNE_API_KEY"
"""Environment variable of the key, which a command line would show to every user."""
LOCAL = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class ServeConfig:
    """A policy with its pruning method, and the port it answers on."""

    checkpoint: str = "tiny"
    """A folder, a Hugging Face hub id, or an embedded one: `tiny` (trained), `tiny-untrained`."""
    suite: str = "libero_spatial"
    """LIBERO suite whose statistics scale state and actions (and which of those `tiny` is)."""
    pruner: Pruner = NoPruning()
    """The pruning method with its options."""
    policy: str = "auto"
    """openvla, openvla-oft, pi0, pi05, smolvla, or auto: what the checkpoint's files say."""
    policy_options: tuple[str, ...] = ()
    """Options of the policy's own, each key=value: see docs/policies.md."""
    cameras: int | None = None
    """Cameras an OpenVLA-OFT was trained with, 1 or 2, which no file tells; by default 2."""
    unnorm_key: str | None = None
    """Key of the normalisation statistics in the checkpoint; by default the suite's."""
    protocol: str = "auto"
    """How frames are prepared: openvla, lerobot, openpi, or auto: as the checkpoint was published
    with."""
    execute_steps: int | None = None
    """Actions of a chunk that are given out one by one (vla-eval); by default the protocol's, or
    the checkpoint's."""
    device: str = "auto"
    """cpu, cuda, cuda:N or auto."""
    dtype: str = "auto"
    """float32, bfloat16, float16 or auto (bfloat16 on CUDA, float32 on CPU)."""
    attention: str = "sdpa"
    """Attention backend of the language model: sdpa or eager."""
    threads: int | Literal["auto"] = "auto"
    """CPU threads of the model, or auto."""
    seed: int = 7
    """Of what methods and policies draw, where the client sends none."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 for every one of this machine."""
    port: int = 8000
    """Port to listen at; 0: any that is free."""
    greeting: Literal["openpi", "roboarena"] = "openpi"
    """First message to a client that does not speak first: our metadata, or RoboArena's six keys,
    as its clients take no other."""
    connection_is_episode: bool = False
    """A connection of openpi's dialect is one episode: for methods with memory, as that dialect
    says neither where an episode begins nor where it ends."""
    replan_steps: int | None = None
    """Steps an openpi client executes between two calls: between the two poses it sends, the hand
    is then taken to have moved straight. For methods that look at its motion."""
    api_key: str | None = None
    """Key a client must send, as `Authorization: Api-Key KEY` or `?api_key=KEY`; else the
    environment's VLAPRUNE_API_KEY."""
    batch: int = 1
    """Calls of different episodes that may be computed together; actions are equal to those
    computed alone at 1, else up to the rounding of sums."""
    max_connections: int = 64
    """Clients at once; one more is told 503."""
    max_waiting: int = 64
    """Calls that may wait for the policy; one more is answered busy."""
    max_message_mib: int = 16
    """Size of a message at most, MiB."""
    idle_timeout: float = 600.0
    """Seconds after which a client that says nothing is dropped."""
    send_timeout: float = 10.0
    """Seconds after which a client that does not take its answer is dropped."""
    drain_timeout: float = 30.0
    """Seconds that running episodes have to end after SIGTERM; calls in work are answered."""

    def __post_init__(self) -> None:
        known = {
            "suite": SUITES,
            "protocol": ("auto", *PROTOCOLS),
            "policy": ("auto", *own_policies()),
        }
        known |= {"dtype": ("auto", "float32", "bfloat16", "float16")}
        known |= {"attention": ("sdpa", "eager"), "greeting": ("openpi", "roboarena")}
        for name, names in known.items():
            if getattr(self, name) not in names:
                raise UserError(
                    f"--{name} is {getattr(self, name)}{nearest(getattr(self, name), names)}."
                )
        for name in ("batch", "max_connections", "max_waiting", "max_message_mib"):
            _least(name, getattr(self, name))
        for name in ("execute_steps", "replan_steps"):
            if getattr(self, name) is not None:
                _least(name, getattr(self, name))
        for name in ("idle_timeout", "send_timeout", "drain_timeout"):
            if not getattr(self, name) > 0:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} is {getattr(self, name):g}; give seconds above 0.")
        if not 0 <= self.port < 2**16:
            raise UserError(f"--port is {self.port}; it must be 0 to 65535.")
        if self.key == "":
            raise UserError("--api-key is empty; give a key, or leave it out.")

    @property
    def key(self) -> str | None:
        """The key a client must send; None: none."""
        return self.api_key if self.api_key is not None else os.environ.get(API_KEY)

    @property
    def evaluation(self) -> EvalProtocol:
        """The protocol whose frames the policy wants."""
        if self.protocol == "auto":
            return declared_protocol(self.checkpoint)
        return PROTOCOLS[self.protocol]


def _least(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
