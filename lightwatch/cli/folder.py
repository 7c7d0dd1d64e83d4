"""The folder of a run: where each file is, how it is made, and how a refusal leaves none.

A folder is chosen (`RunFolder.choose`, which touches nothing), made, and after a refusal unmade: only what was made
here, never a folder that was there before.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DISK_ERRORS, ConfigError, LightwatchError
from ..files import write_whole

RUNS = "runs"
RESERVED_BYTES = 32 << 10


class DiskError(LightwatchError):
    """The disk is full or broken: nobody's input is to blame, so exit code 1."""


@dataclass
class RunFolder:
    """A run's folder and the names in it."""

    path: Path
    run_id: str
    _made: list[Path] = field(default_factory=list)

    @property
    def config(self) -> Path:
        return self.path / "config.toml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def ledger(self) -> Path:
        return self.path / "ledger.db"

    @property
    def address(self) -> Path:
        return self.path / "control.json"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def reserve(self) -> Path:
        """Room for the summary on a disk that fills; gone with `release`."""
        return self.path / "summary.json.room"

    def release(self) -> None:
        """Give the room back, just before the summary is written."""
        self.reserve.unlink(missing_ok=True)

    @property
    def template_pid(self) -> Path:
        """Number and start time of the process that forks the spheres, while there is one."""
        return self.path / "template.pid"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def sample(self) -> Path:
        return self.path / "sample.txt"

    @property
    def profile(self) -> Path:
        """Holds a file a sphere, by its path, if a profile was asked for."""
        return self.path / "profile"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def client_key(self) -> Path | None:
        """What a client on this machine shows to control, in a run with keys."""
        path = self.path / "keys" / "local" / "client.key"
        return path if path.exists() else None

    def log(self, name: str) -> Path:
        """The log of a sphere (by its path), of `control`, or of `host`: this machine's template and supervisors."""
        return self.logs / f"{name}.log"

    def forget_pids(self, paths: Sequence[str]) -> None:
        """All are dead: whoever was killed could not take its own file away."""
        files = [self.path / "spheres" / path / f"{role}.pid" for path in paths for role in ("worker", "supervisor")]
        for file in [self.template_pid, *files]:
            file.unlink(missing_ok=True)

    @staticmethod
    def new_id() -> str:
        """For a run that has none yet."""
        return secrets.token_hex(4)

    @classmethod
    def choose(cls, out: str | None, flag: str = "--out") -> RunFolder:
        """The folder that a new run will use; raises ConfigError if it can't be that one, which the flag has named.
        Makes nothing."""
        run_id = cls.new_id()
        if out is None:
            return cls(Path(RUNS, f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{run_id}").absolute(), run_id)
        if out == "" or "\0" in out:
            raise ConfigError(f"{flag} needs a folder's name, got {out!r} [LW001]")
        folder = Path(out).absolute()
        try:
            if folder.is_dir():
                _refuse_unless_empty(folder, flag)
            elif os.path.lexists(folder):
                raise ConfigError(f"{flag} {out}: this is not a folder; name a new one or an empty one [LW602]")
            _refuse_unless_writable(folder, flag)
        except OSError as error:
            raise ConfigError(f"{flag} {out}: {error.strerror or error}; name another folder [LW602]") from None
        return cls(folder, run_id)

    def make(self, config: str) -> None:
        """Make the folder with its config.toml and logs/. Raises ConfigError or DiskError, and then leaves nothing."""
        try:
            for folder in [*reversed(self.path.parents), self.path, self.logs]:
                if not folder.exists():
                    folder.mkdir()
                    self._made.append(folder)
            self._made += [self.config, self.reserve]
            write_whole(self.config, config.encode())
            write_whole(self.reserve, b"kept free for summary.json\n".ljust(RESERVED_BYTES))
        except OSError as error:
            self.unmake()
            what = f"the run's folder {self.path} can't be made: {error.strerror or error}"
            if is_disk_trouble(error):
                raise DiskError(f"{what} [LW601]") from None
            raise ConfigError(f"{what} [LW602]") from None

    def reopen(self, config: str) -> None:
        """Make the folder that of a run that goes on: no word of its end, nor of processes that are dead. Raises
        ConfigError if its control lives, DiskError."""
        from control.errors import LedgerError
        from control.lock import refuse_if_written

        try:
            refuse_if_written(self.ledger)
        except LedgerError as error:
            raise ConfigError(str(error)) from None
        try:
            self.logs.mkdir(exist_ok=True)
            write_whole(self.config, config.encode())
            write_whole(self.reserve, b"kept free for summary.json\n".ljust(RESERVED_BYTES))
            for stale in (self.summary, self.address, self.template_pid):
                stale.unlink(missing_ok=True)
        except OSError as error:
            raise DiskError(f"the run's folder {self.path} can't be used: {error.strerror or error} [LW601]") from None

    def unmake(self) -> None:
        """Undo `make`, and what control and the template have put there: for a run that was refused before it began."""
        if not self._made:
            return
        for path in [self.address, self.ledger, self.log("control"), self.log("host"), self.metrics, self.template_pid]:
            path.unlink(missing_ok=True)
        for leftover in self.path.glob("ledger.db*"):
            leftover.unlink(missing_ok=True)
        for path in reversed(self._made):
            try:
                path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
            except OSError:
                pass  # something of somebody else's lies there: it stays
        self._made.clear()


def newest_run() -> RunFolder:
    """The newest run's folder under ./runs; raises ConfigError if there is none."""
    found = [path for path in Path(RUNS).glob("*/") if (path / "config.toml").is_file()]
    if not found:
        raise ConfigError(
            f"there is no run under ./{RUNS}; name a run's folder or give --control tcp://HOST:PORT [LW603]"
        )
    return existing_run(str(max(found, key=lambda path: (path / "config.toml").stat().st_mtime_ns)))


def existing_run(name: str) -> RunFolder:
    """The folder of a run that was started; raises ConfigError if this is none."""
    folder = RunFolder(Path(name), "")
    try:
        if folder.path.is_file():
            raise ConfigError(f"{name}: this is a file; name the folder of a run [LW603]")
        if not folder.path.is_dir():
            raise ConfigError(f"{name}: there is no such folder; name the folder of a run [LW603]")
        if not folder.config.is_file() and not folder.address.is_file():
            raise ConfigError(f"{name}: this is not the folder of a run (it has no config.toml) [LW603]")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{name!r}: {error} [LW603]") from None
    return folder


def read_json(path: Path) -> dict[str, Any] | None:
    """An object from a JSON file; None if there is no such file or it holds something else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def is_disk_trouble(error: OSError) -> bool:
    """Whether the disk, and not the user's input, is to blame."""
    return error.errno in DISK_ERRORS


def _refuse_unless_empty(folder: Path, flag: str) -> None:
    with os.scandir(folder) as entries:
        inside = next((entry for entry in entries if entry.name != "keys"), None)  # drawn for the run to come
    if inside is not None:
        raise ConfigError(
            f"{flag} {folder}: the folder is not empty (it holds {inside.name}); name a new or empty one [LW602]"
        )


def _refuse_unless_writable(folder: Path, flag: str) -> None:
    """Look at the nearest folder that exists: there the new one will be made."""
    nearest = next(path for path in [folder, *folder.parents] if path.exists())
    if not nearest.is_dir():
        raise ConfigError(f"{flag} {folder}: {nearest} is not a folder; name another one [LW602]")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ConfigError(f"{flag} {folder}: no permission to write in {nearest}; name another folder [LW602]")
