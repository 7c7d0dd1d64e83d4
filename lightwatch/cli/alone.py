"""A run of one process: it trains here, and keeps the ledger and metrics.jsonl that control keeps for a tree."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..config import TrainingConfig
from ..errors import ConfigError, DataError, told
from ..trace import Trace
from .folder import DiskError, is_disk_trouble
from .record import OVERRIDES
from .rows import Row, bytes_up_to
from .settings import Point, Settings
from .signals import Signals
from .summary import Facts
from .view import View

if TYPE_CHECKING:
    from control.ledger import Ledger

    from ..saver import Home
    from ..trainer import Trainer
    from .recording import Recording


AT_ONCE = "a second signal ended the run at once [LW514]"
INTERRUPTED = "interrupted: the script raised KeyboardInterrupt [LW514]"


class AtOnce(BaseException):
    """A second signal: leave whatever is being done."""


class AloneRun:
    """Trains in this process. The first signal is a stop order, the second raises AtOnce, the third leaves at once."""

    def __init__(self, settings: Settings, view: View) -> None:
        self._settings = settings
        self._folder = settings.folder
        self._view = view
        self._sync: Recording | None = None
        self._received: list[int] = []
        self._last: Row | None = None
        self._over = False
        self.signals = Signals(self._on_signal)

    def run(self) -> Facts:
        """Train and write everything but the summary. Blocks. What goes wrong is in the facts, not raised."""
        from control.ledger import Ledger

        log = logging.FileHandler(self._folder.log(self._settings.paths[0]), encoding="utf-8")
        log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logging.getLogger("lightwatch").addHandler(log)
        try:
            with Ledger.open(self._folder.ledger, self._folder.run_id) as ledger:
                ledger.set("tree", self._settings.tree)
                ledger.set("status", "unfinished")
                with self._folder.metrics.open("ab", buffering=0) as metrics:
                    facts = self._guarded(ledger, metrics)
                ledger.note_totals(facts.totals)
                ledger.end(facts.status, facts.reason, facts.usage)
            return facts
        except AtOnce:  # between training and the end
            return self._failure(AT_ONCE)
        except Exception as error:  # the disk under ledger and metrics
            return self._failure(told(error), error)
        finally:
            self._over = True
            logging.getLogger("lightwatch").removeHandler(log)
            log.close()

    def _guarded(self, ledger: Ledger, metrics: IO[bytes]) -> Facts:
        """Whatever ends the training becomes a status and a sentence."""
        try:
            self._train(ledger, metrics)
        except AtOnce:
            return self._failure(AT_ONCE)
        except (ConfigError, DataError) as error:
            return self._failure(str(error), error, usage=True)
        except KeyboardInterrupt as error:  # no signal is one here: the script's own, and it counts as Ctrl-C
            self.signals.received.append(signal.SIGINT)
            return self._failure(INTERRUPTED, error)
        except BaseException as error:  # also what is no Exception: a summary is owed for whatever a script raises
            return self._failure(told(error), error)
        if self._last is None:
            what = self._settings.script[0] if self._settings.script else "the job"
            return self._failure(f"{what} ended without training: call Trainer(...).train() [LW803]")
        closing = self._sync.closing if self._sync else None
        return self._facts("stopped" if closing is not None and closing.reason == "stopped" else "completed")

    def _train(self, ledger: Ledger, metrics: IO[bytes]) -> None:
        from .. import job
        from .. import sync as seam
        from .recording import Recording

        self._sync = seam.current = Recording(
            ledger,
            metrics,
            tell=self._tell,
            keep=self._keep,
            configured=self._configured,
            stop_wanted=lambda: bool(self._received),
        )
        self._sync.home = self._home(self._sync)
        if self._settings.profile:
            self._sync.trace = Trace(self._folder.profile, self._settings.paths[0])
        try:
            if self._settings.script:
                job.run_script(self._settings.script, self._settings.run.training.seed)
            else:
                trainer = job.build(self._settings.run, self._sync)
                if self._settings.point is not None:
                    self._go_on(self._settings.point, trainer, ledger, metrics)
                trainer.train()
            self._sync.leave()
        finally:
            seam.current = None

    def _go_on(self, point: Point, trainer: Trainer, ledger: Ledger, metrics: IO[bytes]) -> None:
        """Stand at the checkpoint; what was told of later versions is told anew. Raises ConfigError, DataError."""
        from control.record import read_record

        from ..manifest import read_manifest
        from ..saving import differences
        from ..sync import Wanted

        assert self._sync is not None
        anew = point.lineage is not None
        known = point.version if anew else read_record(self._folder.ledger).version
        ledger.obeyed_from(known + 1, all_later=anew)
        record = read_record(self._folder.ledger)
        self._sync.lineage = point.lineage or record.lineage
        self._sync.obey(record.orders, known)
        if point.path is not None:
            overridden = ("max_steps",) if OVERRIDES in record.notes else ()
            manifest = read_manifest(point.path)
            found = differences(manifest, trainer.config, trainer.data.fingerprint, overridden)
            if found:
                raise ConfigError(f"this is not the run that was saved in {point.path}: {'; '.join(found)} [LW607]")
            trainer.restore(point.path)
        else:
            self._sync.take(Wanted())
        metrics.truncate(bytes_up_to(self._folder.metrics, point.version))

    def _home(self, sync: Recording) -> Home:
        from ..saver import Home

        sections = () if self._settings.script else ("model", "data", "control")
        config = {name: asdict(getattr(self._settings.run, name)) for name in sections}
        return Home(self._folder.path, self._folder.run_id, self._settings.tree, config, sync.records)

    def _tell(self, row: Row) -> None:
        self._last = row
        self._view.rows([row])

    def _configured(self, config: TrainingConfig) -> None:
        """A script's settings are known once its trainer is: then config.toml is the complete set."""
        if self._settings.script:
            from .. import job

            job.write_config(self._folder.path, config, self._settings.run)

    def _keep(self, model: Any) -> Path:
        """Write the model and a sample of its text; the model's file."""
        from .. import job

        try:
            return job.finish(model, self._folder.path, self._settings.run.training.seed)
        except OSError as error:
            if is_disk_trouble(error):
                raise DiskError(
                    f"the model can't be written: {error.strerror}; free some space and train again [LW601]"
                ) from None
            raise

    def _on_signal(self, received: list[int]) -> None:
        self._received = received
        if self._over:
            return  # a moment later the summary is written
        if len(received) == 1:
            if self._sync is not None:
                self._sync.order(stopped=True)
            self._view.note("the run stops after this step; a second signal ends it at once")  # may wait for a reader
        elif len(received) == 2:
            raise AtOnce
        else:
            os._exit(130)

    def _failure(self, reason: str, error: BaseException | None = None, *, usage: bool = False) -> Facts:
        detail = "".join(traceback.format_exception(error)) if error else ""
        try:
            with self._folder.log(self._settings.paths[0]).open("a", encoding="utf-8") as file:
                file.write(detail)
        except OSError:
            pass  # a full disk: the sentence is told all the same
        return self._facts("failed", reason, usage=usage, detail=detail)

    def _facts(self, status: str, reason: str = "", *, usage: bool = False, detail: str = "") -> Facts:
        closing = self._sync.closing if self._sync else None
        last = self._last or {}
        return Facts(
            status=status,
            reason=reason,
            usage=usage,
            version=closing.version if closing else last.get("version"),
            digest=closing.digest if closing else last.get("digest"),
            eval_loss=closing.eval_loss if closing else None,
            totals={self._settings.paths[0]: self._sync.totals} if self._sync else {},
            generations=1 if last else 0,
            failures=(reason,) if status == "failed" else (),
            fingerprint=self._sync.fingerprint if self._sync else {},
            detail=detail,
        )
