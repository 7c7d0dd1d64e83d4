"""`lightwatch verify DIR`: does a run's folder hold what its config, its data and its own ledger say it must?

The ledger is audited, the model's file hashed, and some versions are made again in this one process. Nothing in the
folder is changed. A run that still goes on is verified as far as it is.
"""

from __future__ import annotations

import argparse
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import RunConfig, load, merge
from ..errors import ConfigError, DataError
from .audit import Contradiction, Plan, audit, is_whole
from .beside import LEDGER, METRICS, SUMMARY, metrics_otherwise, summary_otherwise
from .folder import RunFolder, existing_run, read_json
from .rows import read_rows
from .terminal import Terminal, spoken_count
from .view import spoken_s
from .weights import digest_of_v0, digests_of_model

if TYPE_CHECKING:
    from control.record import RunRecord

    from .replay import Replay

SAMPLE = 20
"""Versions that are made again if nobody says how many."""
TOLD = 10
"""Contradictions that are told one by one; with --json a hundred."""
DONE, CONTRADICTED, REFUSED = 0, 1, 2


@dataclass
class Found:
    """What a verification came to. refused: why the replay can't be, in a sentence."""

    contradictions: list[Contradiction] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    files: list[dict[str, Any]] = field(default_factory=list)
    replay: dict[str, Any] | None = None
    refused: str = ""

    @property
    def verdict(self) -> str:
        return "contradicted" if self.contradictions else "refused" if self.refused else "holds"

    @property
    def code(self) -> int:
        return CONTRADICTED if self.contradictions else REFUSED if self.refused else DONE


def verify(arguments: argparse.Namespace) -> int:
    """Check, tell, and say by the exit code whether it holds. Raises ConfigError, LedgerError."""
    terminal = Terminal(json_only=arguments.json)
    folder = existing_run(arguments.dir)
    record = read(folder)
    span = span_of(arguments.steps, arguments.sample, record.version)
    script = is_script(folder.config)
    run = load(folder.config, RunConfig())
    found, ticker = Found(), Ticker(terminal)
    plan, replay = None, None
    if script:
        found.left_out.append("micro-batches, learning rates and the replay: model and data are the script's own")
    elif not is_whole(record):
        found.left_out.append("micro-batches, orders and the replay: the ledger was lost and begun anew within the run")
    else:
        plan, replay = prepared(run, record, found, ticker.tick if span else lambda _: None)
    found.contradictions = audit(record, plan)
    found.counts = counted(record, plan)
    check_files(folder, record, None if script else run, found)
    check_told(folder, record, found)
    if span is None and (replay is not None or found.refused):
        found.refused = ""
        found.left_out.append("the replay: --sample 0")
    if replay is not None and span is not None:
        ticker.last = span[1]
        make_again(replay, span, found)
        ticker.close()
    found.contradictions.sort(key=lambda each: (each.by == LEDGER, each.version))  # it may be what was changed
    show(terminal, folder, record, found)
    return found.code


def read(folder: RunFolder) -> RunRecord:
    """The run's ledger. Raises ConfigError if there is nothing in it that could be verified."""
    from control.record import read_record

    if not folder.ledger.is_file():
        raise ConfigError(f"{folder.path}: there is no ledger.db, so nothing that could be verified [LW531]")
    record = read_record(folder.ledger)
    if not record.versions:
        raise ConfigError(f"{folder.path}: the ledger holds no version, so nothing that could be verified [LW531]")
    return record


def span_of(steps: tuple[int, int] | None, sample: int | None, newest: int) -> tuple[int, int] | None:
    """The first and the last version to be compared with the replay; None: no replay. Raises ConfigError."""
    if steps is not None and sample is not None:
        raise ConfigError("give --steps or --sample, not both [LW001]")
    if steps is not None:
        if not 0 <= steps[0] <= steps[1] <= newest:
            raise ConfigError(
                f"--steps must be A:B with 0 <= A <= B <= {newest}, the newest version; "
                f"got {steps[0]}:{steps[1]} [LW002]"
            )
        return steps
    if sample is not None and sample < 0:
        raise ConfigError(f"--sample must be at least 0, got {sample} [LW002]")
    most = SAMPLE if sample is None else sample
    return (0, min(most, newest)) if most else None


def is_script(config: Path) -> bool:
    """Whether a script was run: its config.toml holds no model. What can't be read is for `load` to refuse."""
    try:
        return "model" not in tomllib.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def prepared(
    run: RunConfig, record: RunRecord, found: Found, told: Callable[[int], None]
) -> tuple[Plan | None, Replay | None]:
    """What config and data say, and the job, ready to be replayed; None with a reason where either can't be."""
    from .replay import OtherMachineError, Replay, plan_of

    try:
        any_data = merge(run, data={"fingerprint": ""})  # others are told by what can't be checked with them
        replay = Replay(any_data, record, told)
    except DataError as error:
        found.refused = str(error)
        found.left_out.append("the counts of samples: the data can't be read")
        return plan_of(run.training, record), None
    plan = replay.plan(run)
    if plan is None:
        found.left_out.append("micro-batches and learning rates: config.toml is not the one that the run had")
    elif plan.counts is None:
        found.left_out.append("the counts of samples: the data are not those that the run had")
    try:
        replay.refuse_otherness()
    except OtherMachineError as error:
        found.refused = str(error)
        return plan, None
    spheres = max((len(each.members) for each in record.generations), default=1)
    if run.training.reduction == "float" and spheres > 1:
        found.left_out.append('the replay: with reduction = "float" the bits follow the tree')
        return plan, None
    return plan, replay


def make_again(replay: Replay, span: tuple[int, int], found: Found) -> None:
    """Replay, up to the first version that differs."""
    begin_s = time.monotonic()
    contradiction = replay.run(*span)
    if contradiction is not None:
        found.contradictions.append(contradiction)
    spent_s = round(time.monotonic() - begin_s, 3)
    found.replay = {"from": span[0], "to": span[1], "checks": replay.checks, "digests": replay.digests}
    found.replay |= {"equal": contradiction is None, "seconds": spent_s}


def counted(record: RunRecord, plan: Plan | None) -> dict[str, int]:
    """The figures of what was audited, as the ledger has them."""
    rows = {kept.version: kept.row for kept in record.versions}
    figures = {"versions": len(rows), "first": min(rows), "last": max(rows), "orders": len(record.orders)}
    figures["skipped"] = sum(bool(row.get("skipped")) for row in rows.values())
    if plan is not None and plan.counts is not None:
        made = [plan.counts(version) for version in rows if version]
        figures |= {"steps": len(made), "micro_batches": plan.micro_batches}
        figures |= {
            "samples": sum(samples for samples, _ in made),
            "targets": sum(row["weight"] for row in rows.values()),
        }
    return figures


# ---------------------------------------------------------------- files


def check_files(folder: RunFolder, record: RunRecord, run: RunConfig | None, found: Found) -> None:
    """v0 and the model are what the ledger's digests say. run: None for a script's, whose model is not known here."""
    v0 = folder.path / "v0.safetensors"
    known = {kept.version: kept.digest for kept in record.versions if kept.digest is not None}
    if v0.is_file() and 0 in known:
        compare(found, v0, [digest_of_v0(v0)], {known[0]: 0})
    if not folder.model.is_file():
        found.left_out.append("model.safetensors: there is none; a run writes it when it ends")
        return
    ended = record.status in ("completed", "stopped")
    if ended:
        known = {version: digest for version, digest in known.items() if version == record.version}
    if not known:
        found.left_out.append("model.safetensors: the ledger holds no digest to compare it with")
        return
    digests = digests_of_model(folder.model, run)
    expected = {digest: version for version, digest in sorted(known.items())}
    if not ended and not expected.keys() & set(digests):
        found.left_out.append("model.safetensors: the ledger has no end, so it can't be said which version this is")
    elif run is None and digests and not expected.keys() & set(digests):
        found.left_out.append(
            f"model.safetensors: only the script knows which of its tensors are buffers; by name alone its digest is "
            f"{digests[0]}, that of version {max(known)} is {known[max(known)]}"
        )
    else:
        compare(found, folder.model, digests, expected)


def check_told(folder: RunFolder, record: RunRecord, found: Found) -> None:
    """What tells of the run beside its ledger says the same."""
    rows, summary = read_rows(folder.metrics), read_json(folder.summary)
    wrong = list(metrics_otherwise(rows, record))
    if not wrong:
        found.files.append({"file": METRICS, "version": record.version, "lines": len(rows)})
    found.contradictions += wrong
    if summary is None:
        found.left_out.append(f"{SUMMARY}: there is none that could be read; a run writes it when it ends")
        return
    wrong = list(summary_otherwise(summary, record))
    if not wrong:
        found.files.append({"file": SUMMARY, "version": summary.get("version"), "digest": summary.get("digest")})
    found.contradictions += wrong


def compare(found: Found, path: Path, digests: list[str], expected: dict[str, int]) -> None:
    """One of the digests that a file may stand for must be one of those expected: digest -> version."""
    for digest in digests:
        if digest in expected:
            found.files.append({"file": path.name, "version": expected[digest], "digest": digest})
            return
    digest, version = max(expected.items(), key=lambda item: item[1])
    got = digests[0] if digests else "no such tensors"
    found.contradictions.append(Contradiction(version, path.name, digest, got, "the ledger's digest"))


# ---------------------------------------------------------------- telling


class Ticker:
    """On a terminal a line that says how far the replay is, and how long it will take; elsewhere nothing."""

    def __init__(self, terminal: Terminal) -> None:
        self.last = 0
        self._stream = terminal.people if terminal.is_live else None
        self._begin_s = self._shown_s = time.monotonic()

    def tick(self, version: int) -> None:
        """This version was made."""
        now_s = time.monotonic()
        if version == 1:
            self._begin_s = now_s
        if self._stream is None or now_s - self._shown_s < 0.2 or version < 2:
            return
        self._shown_s = now_s
        left_s = (now_s - self._begin_s) / (version - 1) * (self.last - version)
        self._stream.write(f"\r{spoken_tick(version, self.last, left_s)}\x1b[K")
        self._stream.flush()

    def close(self) -> None:
        """Leave the line empty."""
        if self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def spoken_tick(version: int, last: int, left_s: float) -> str:
    return f"replay: version {version}/{last}, {spoken_s(left_s)} left"


def show(terminal: Terminal, folder: RunFolder, record: RunRecord, found: Found) -> None:
    """The table and the verdict, or with --json the one object; what is wrong also as a sentence on stderr."""
    if not terminal.json_only:
        terminal.tell("\n".join(spoken(record, found)))
    terminal.emit(as_json(folder, record, found))
    if found.contradictions:
        more = len(found.contradictions) - 1
        others = f"; and {more} more" if more else ""
        terminal.complain(f"{folder.path}: {found.contradictions[0]}{others} [LW533]")
    elif found.refused:
        terminal.complain(found.refused)


def as_json(folder: RunFolder, record: RunRecord, found: Found) -> dict[str, Any]:
    """The one object of --json."""
    told = [asdict(each) for each in found.contradictions[: TOLD * 10]]
    return {
        "folder": str(folder.path),
        "run_id": record.run_id,
        "status": record.status,
        "verdict": found.verdict,
        "ledger": found.counts,
        "files": found.files,
        "replay": found.replay,
        "left_out": found.left_out,
        "refused": found.refused or None,
        "contradictions": told,
        "contradictions_in_all": len(found.contradictions),
    }


def spoken(record: RunRecord, found: Found) -> list[str]:
    """The table, line by line, and the verdict."""
    end = f"{record.status} at version {record.version}"
    lines = [
        f"run {record.run_id}: {end if record.status != 'unfinished' else f'not ended, at version {record.version}'}"
    ]
    of_replay = [each for each in found.contradictions if each.by == "the replay"]
    of_files = [each for each in found.contradictions if each.what.endswith((".safetensors", METRICS, SUMMARY))]
    of_ledger = [each for each in found.contradictions if each not in (*of_replay, *of_files)]
    lines += _titled("ledger", _wrong(of_ledger) or spoken_ledger(found.counts))
    lines += _titled("files", [*_wrong(of_files), *map(spoken_file, found.files)])
    if found.replay is not None:
        lines += _titled("replay", _wrong(of_replay) or spoken_replay(found.replay, record.version))
    lines += _titled("left out", [*found.left_out, *([f"the replay: {found.refused}"] if found.refused else [])])
    if found.verdict == "holds":
        lines.append("nothing that was checked contradicts anything else")
    return lines


def spoken_ledger(counts: dict[str, int]) -> list[str]:
    """What an audit without a contradiction has shown."""
    lines = [f"versions {counts['first']} to {counts['last']} without a gap; each row agrees with itself"]
    if "steps" in counts:
        steps, each = spoken_count(counts["steps"], "step"), spoken_count(counts["micro_batches"], "micro-batch")
        what = f"{spoken_count(counts['samples'], 'sample')}, {spoken_count(counts['targets'], 'target')}"
        lines.append(f"{steps} of {each}, each counted exactly once: {what}")
        skipped, orders = spoken_count(counts["skipped"], "step"), spoken_count(counts["orders"], "order")
        lines.append(f"learning rates follow the schedule; {skipped} skipped, {orders}")
    return lines


def spoken_file(file: dict[str, Any]) -> str:
    """A file in which nothing is wrong."""
    if "lines" in file:
        return f"{file['file']} has {file['lines']:,} lines, each as the ledger has it"
    return f"{file['file']} is version {file['version']}, digest {file['digest']}"


def spoken_replay(replay: dict[str, Any], newest: int) -> list[str]:
    """What was made again, and what was not."""
    first, last = replay["from"], replay["to"]
    which = f"versions {first} to {last}" if first < last else f"version {last}"
    lines = [
        f"{which} made again in one process in {replay['seconds']:.1f} s; equal: "
        f"checks {replay['checks']}, digests {replay['digests']}, and all losses, rates and norms"
    ]
    if first > 0 or last < newest:
        lines.append(f"a part: `--steps 0:{newest}` makes all {newest} again")
    return lines


def _wrong(contradictions: list[Contradiction]) -> list[str]:
    more = [f"and {len(contradictions) - TOLD} more"] if len(contradictions) > TOLD else []
    return [*map(str, contradictions[:TOLD]), *more]


def _titled(title: str, lines: list[str]) -> list[str]:
    return [f"{title if place == 0 else '':<10}{line}" for place, line in enumerate(lines)]
