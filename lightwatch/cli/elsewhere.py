"""Where the files of a run lie whose spheres were all started by `join`: control's folder has its ledger alone."""

from __future__ import annotations

from ..config import RunConfig, load
from ..errors import ConfigError
from .folder import RunFolder


def elsewhere(folder: RunFolder) -> str:
    """Where model and checkpoints are, as a sentence without its full stop, and how the run goes on from there; empty
    where this folder is theirs, or nobody knows. Never raises."""
    from control.errors import LedgerError
    from control.record import read_record
    from control.tree import wait_for

    try:
        of = load(folder.config, RunConfig()).control
        record = read_record(folder.ledger) if wait_for(of.tree) else None
    except (LedgerError, ConfigError):
        return ""
    if record is None or not record.generations:
        return ""
    members, at = record.generations[-1].members, of.checkpoint_at
    first = members[0]
    saves = next((path for path in members if at and f"{path}/".startswith(f"{at}/")), first)
    hosts = [str(record.spheres.get(path, {}).get("host", "")) for path in (first, saves)]
    what = "the model and the checkpoints are" if hosts[0] == hosts[1] else "the checkpoints are"
    here = f"runs/{record.run_id}"
    return (
        f"{what} on {hosts[1]}, where sphere {saves} was, in {here} or the folder that `join --dir` named; there "
        f"`lightwatch train --resume {here} --tree 1` goes on from the newest one, on that machine alone"
    )
