"""Run where openpi-server is installed: openpi's own server, with a policy that is easily known.

    python serve_openpi.py PORT

Actions are those of the state's first number and the frame's first pixel, ten of them.
"""

import sys

import numpy as np
from openpi_client.base_policy import BasePolicy
from openpi_server import WebsocketPolicyServer


class Known(BasePolicy):
    def infer(self, obs):
        first = obs["observation/state"][0] + obs["observation/image"][0, 0, 0] / 1000
        assert obs["observation/image"].shape == (224, 224, 3)
        assert isinstance(obs["prompt"], str)
        return {"actions": np.full((10, 7), first)}

    def reset(self):
        pass


WebsocketPolicyServer(Known(), "127.0.0.1", int(sys.argv[1]), {"policy": "known"}).serve_forever()
