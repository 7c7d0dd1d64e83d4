"""A doctor's own process for what needs torch: this machine's fingerprint and probe, as its spheres would show them.

    python -m lightwatch.cli.doctor_probe CONFIG

Prints one JSON object: the fingerprint, or a trouble that came up. The doctor ends it when time is up.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ..config import RunConfig, load
from ..errors import DataError, LightwatchError, told


def prove(config: Path) -> dict[str, object]:
    """Builds the run's own job, as a sphere does, and computes one micro-batch. Takes seconds."""
    from .. import job
    from .replay import Ordered

    sync = Ordered([], lambda report: None)
    try:
        job.build(load(config, RunConfig()), sync).train_steps(0)
    except (LightwatchError, OSError, MemoryError, RuntimeError) as error:
        return {"name": "data" if isinstance(error, DataError) else "fingerprint", "text": told(error)}
    return {"fingerprint": sync.fingerprint}


if __name__ == "__main__":
    print(json.dumps(prove(Path(sys.argv[1]))))
