"""Run where openpi-client is installed: ask a server for actions on stored observations.

python drive_openpi.py HOST PORT observations.npz actions.npz
"""

import json
import sys

import numpy as np
from openpi_client.websocket_client_policy import WebsocketClientPolicy

host, port, given, out = sys.argv[1:]
client = WebsocketClientPolicy(host, int(port))
metadata = client.get_server_metadata()
data = np.load(given)
replies = [
    client.infer(
        {
            "observation/image": data["image"][call],
            "observation/wrist_image": data["wrist_image"][call],
            "observation/state": data["state"][call],
            "prompt": str(data["prompt"]),
        }
    )
    for call in range(len(data["state"]))
]
try:
    client.infer({"prompt": "nothing else"})
    error = ""
except RuntimeError as failure:
    error = str(failure)
told = {
    "metadata": metadata,
    "error": error,
    "measures": [reply["vlaprune"] for reply in replies],
    "timing": [reply["server_timing"] for reply in replies],
    "numpy": np.__version__,
}
np.savez(out, actions=np.array([reply["actions"] for reply in replies]), told=json.dumps(told))
