"""What a doctor looks at by itself: this machine's addresses, its disk, and whether an address can be connected to."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import tempfile
import time
from pathlib import Path

from ..config import RunConfig
from .doctor_findings import Disk, Knock
from .settings import parameters

KNOCK_S = 2.0
PLACES_MOST = 8
STATE_BYTES = 12
"""Of each weight in v0 and in a checkpoint: itself and two moments."""
MODEL_BYTES = 8
"""Of each weight in model.safetensors, and aside while it is written."""
MORE_BYTES = 1 << 20
TRIED_BYTES = 1 << 16


def places(control: str, interface: str) -> list[tuple[str, str]]:
    """(interface, address) of this machine, that which its spheres would be reached at first. Raises ConfigError."""
    from spheres.address import every_address, own_address

    own, every = own_address(control, interface), every_address()
    first = next(((name, at) for name, at in every if at == own), (interface or "?", own))
    others = [place for place in every if place != first and _leads_elsewhere(place[1])]
    return [first, *others][:PLACES_MOST]


def _leads_elsewhere(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return not (found.is_loopback or found.is_link_local)


def knock(host: str, port: int, source: str = "", timeout_s: float = KNOCK_S) -> Knock:
    """Connect, and hang up at once. source: from this address; where that fails, from any. Blocks for twice timeout_s
    at most."""
    began_s = time.monotonic()
    try:
        with socket.create_connection((host, port), timeout_s, source_address=(source, 0) if source else None):
            return Knock(round_trip_s=time.monotonic() - began_s)
    except TimeoutError:
        found = Knock(why=f"no answer within {timeout_s:g} s")
    except OSError as error:
        found = Knock(why=(error.strerror or str(error)).lower())
    if source:
        again = knock(host, port, timeout_s=timeout_s)
        if not again.why:
            return Knock(round_trip_s=again.round_trip_s, by_another=True)
    return found


def disk(folder: Path, run: RunConfig) -> Disk:
    """What is free where the folder would be made, and that something can really be written there. Leaves nothing.
    Raises OSError."""
    nearest = next(path for path in [folder, *folder.parents] if path.exists())
    kept = run.training.max_checkpoints + 1 if run.training.save_interval else 0
    need = parameters(run.model) * (MODEL_BYTES + STATE_BYTES * (1 + kept)) + MORE_BYTES
    free = shutil.disk_usage(nearest).free
    if free >= need:
        with tempfile.TemporaryFile(dir=nearest) as file:
            file.write(bytes(TRIED_BYTES))
            file.flush()
    return Disk(str(nearest), free, need)
