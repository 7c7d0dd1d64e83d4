"""Started by torchrun: which place in the tree follows from its environment.

torchrun kills all it has started when one of them fails, so what it starts is a supervisor, which does not.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping


def host_path(environment: Mapping[str, str]) -> str:
    """The path of this machine: by its number where one torchrun spans several, else by the host's name."""
    if int(environment.get("GROUP_WORLD_SIZE", "1")) > 1:
        return f"node-{environment['GROUP_RANK']}"
    return re.sub(r"[^A-Za-z0-9_.-]", "-", socket.gethostname())[:56].strip(".-") or "machine"


def slot(environment: Mapping[str, str]) -> str:
    """The name of this process' sphere on its machine."""
    return environment.get("LOCAL_RANK", "0")
