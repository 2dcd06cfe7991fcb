"""Many clients, some of them hostile: no crash, nothing left open, no episode in another's."""

import time

import numpy as np

from tests.fakes import FakePolicy
from tests.serve.hostile import alone, extras, open_files, storm
from tests.serve.rig import Openpi, look, serving
from vlaprune_bench.pruning.none import NoPruning


def test_a_storm():
    wanted = alone(FakePolicy(), NoPruning(), range(12))
    before = open_files()
    with serving(FakePolicy(), max_connections=40, idle_timeout=2.0) as server:
        tally = storm(server, wanted, 4.0, openpi=8, bad=4, vla=range(8, 12))
        assert not tally.wrong, tally.wrong[:3]
        assert tally.answers > 12
        assert tally.errors > 20
        # those who hang on are dropped, and the server goes on
        deadline = time.monotonic() + 20
        while server._sessions and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not server._sessions
        with Openpi(server) as client:
            more = {f"observation/{key}": value for key, value in extras(3, 0).items()}
            reply = client.ask(look(variant=3, session_id="after", **more))
            np.testing.assert_array_equal(reply["actions"], wanted[3][0])
    deadline = time.monotonic() + 15  # the handshake's patience
    while open_files() > before and time.monotonic() < deadline:
        time.sleep(0.2)
    assert open_files() <= before
