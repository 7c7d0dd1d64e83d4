"""A control process of one's own: started, waited for until it is bound, and ended with its parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from .config import Settings
from .errors import ControlError, NoAnswer

START_S = 20.0
BEGIN_AGAIN_MOST = 2
"""So often one that is killed before it is bound is started anew."""
LOOK_S = 0.01


class ControlProcess:
    """`python -m control` as a child in a session of its own, ready when this is constructed.

    Its stdin is a pipe that we hold: when we die, by any signal, it ends. `close` ends it at once; a run that is to
    end whole is stopped by a client first, and then waited for. Raises SettingsError, TreeError or AddressError before
    anything is started, ControlError with control's own sentence (a port in use), NoAnswer when it is not bound within
    START_S.

    folder: exists; control puts ledger.db, control.json and metrics.jsonl there. log: its stderr, default
    folder/control.log. adopt: with a ledger that knows nothing of the run, take over what the spheres tell. resume: as
    in `Settings`; it counts once, whoever is started anew later takes up what was written down.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        run_id: str,
        tree: str = "2x2",
        listen: str = "tcp://127.0.0.1:*",
        silence_s: float = 5.0,
        log: Path | None = None,
        adopt: bool = False,
        resume: str = "",
    ) -> None:
        self.folder = Path(folder)
        self._settings = Settings(
            folder=self.folder,
            run_id=run_id,
            tree=tree,
            listen=listen,
            silence_s=silence_s,
            lifeline=True,
            resume=resume,
        )
        self.log = log or self.folder / "control.log"
        self._adopt = adopt
        self.process = _started(self._settings, self.log, adopt=adopt)
        try:
            self.address = self._wait_until_bound()
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_bound(self) -> bool:
        """Whether it listens, and takes signals for orders. Reads a file."""
        return self._about() is not None

    def begin_again(self, *, adopt: bool = False) -> None:
        """After its death: another process with the same ledger at the same address. It is bound some time later."""
        self.close()
        self._settings = replace(self._settings, listen=self.address, resume="")
        self.process = _started(self._settings, self.log, adopt=adopt)

    def _wait_until_bound(self) -> str:
        deadline, again = time.monotonic() + START_S, BEGIN_AGAIN_MOST
        while time.monotonic() < deadline:
            about = self._about()
            if about is not None:
                return str(about["address"])
            code = self.process.poll()
            if code is not None and code < 0 and again:  # killed, and nobody had heard of it yet
                again -= 1
                self.close()
                self.process = _started(self._settings, self.log, adopt=self._adopt)
            elif code is not None:
                lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
                said = [line for line in lines if line.startswith("control: ")]
                if said:
                    raise ControlError(said[-1].removeprefix("control: "))
                raise ControlError(f"control ended with code {code}; see {self.log} [LW503]")
            time.sleep(LOOK_S)
        raise NoAnswer(f"control was not bound within {START_S:g} s; see {self.log} [LW503]")

    def _about(self) -> dict[str, object] | None:
        try:
            about = json.loads((self.folder / "control.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return about if isinstance(about, dict) and about.get("pid") == self.process.pid else None

    def poll(self) -> int | None:
        """Its exit code, or None while it lives."""
        return self.process.poll()

    def wait(self, timeout_s: float) -> int:
        """Block until it has ended. Raises NoAnswer."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"control (pid {self.pid}) has not ended within {timeout_s:g} s [LW501]") from None

    def close(self, timeout_s: float = 3.0) -> None:
        """End it at once if it lives, and reap it. A second call does nothing."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> ControlProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _started(settings: Settings, log: Path, *, adopt: bool) -> subprocess.Popen[bytes]:
    """The interpreter is told where our own package lies: the current folder, or a package of the same name that is
    installed, must not be taken for it."""
    here = str(Path(__file__).resolve().parent.parent)
    paths = [here, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    arguments = {
        "--dir": str(settings.folder),
        "--run-id": settings.run_id,
        "--tree": settings.tree,
        "--listen": settings.listen,
        "--silence-s": repr(settings.silence_s),
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "control",
        "--lifeline",
        # The kernel means the thread that forked when it says parent: only the main one lives as long as the process.
        *(["--die-with-parent"] if threading.current_thread() is threading.main_thread() else []),
        *(["--adopt"] if adopt else []),
        *(["--resume", settings.resume] if settings.resume else []),
        *(f"{key}={value}" for key, value in arguments.items()),
    ]
    with open(log, "ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
