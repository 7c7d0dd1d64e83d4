"""The supervisor of one sphere: has a template fork its worker, watches it, and starts it anew when it ends unasked.

Loads no torch: it is up in a moment, small, and nothing of the training can hurt it.

Laws
  1. Before it starts a worker, the former one at this path of this host is dead, whoever started it; its number goes
     along, and is control's proof.
  2. A worker does not outlive it (launch.py), nor it the launcher: stdin is the launcher's pipe.
  3. Its stdout is for the launcher, one JSON line an item, and where there is none for people, in words (news.py):
     {"started": path, "pid": n} the first worker, {"again": path, "pid": n, "why": how the former ended} a later one,
     {"working": path, "pid": n} once it made a version, {"exited": path, "pid": n, "code": n or null, "signal": n or
     null} (both null: nobody knows), {"printed": path, "text": one line of its stdout}, {"gave_up": path, "why": a
     sentence}, {"leaving": path, "why": the signal's name}.
  4. Its exit code is the worker's last: 0 done, also if it was terminated by order; 1 or 2 the run failed and control
     knows why; 1 also if it gave up.
  5. SIGTERM or SIGUSR1 asks its sphere to leave (control/leaving.py), and no other is started: 0 once that is done. A
     second signal ends it at once, and so do DRAIN_S: then the others have lost a sphere, and the code is 1. What comes
     within ONE_WORD_S of the first is that first one: torchrun, Slurm and a shell signal a process and its group.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path

from control import crash

from . import handover, pids, restart
from .launch import ASKED
from .life import Life
from .news import spoken, spoken_end
from .post import Post

LOOK_S = (0.1, 1.0)
"""How often the status pipe is read: until a life has made a version, and from then on."""
ASK_AGAIN_S = 0.05
TEMPLATE_MOST_S = 60.0
"""How long nobody may answer at the template's socket: it may load torch, or be started anew."""
STUCK_SILENCES = 10
ONE_WORD_S = 1.0
DRAIN_S = 25.0
"""How long leaving may take: Kubernetes kills after 30 s, a spot instance is gone 30 s to 2 min after its notice."""


def is_stuck(pulse_at_s: float | None, now_s: float, silence_s: float) -> bool:
    """Whether a worker is silent for too long: stopped for good, or a thread holds the interpreter. Never before its
    first sign, for what a script does before it trains takes as long as it takes."""
    return pulse_at_s is not None and now_s - pulse_at_s > STUCK_SILENCES * silence_s


class Supervisor:
    """Blocks in `run` until its worker has ended for good. Main thread only; ignores SIGINT."""

    def __init__(self, post: Post, *, lifeline: bool = True) -> None:
        self._post = post
        self._pid_file = post.folder / "worker.pid"
        self._own_file = post.folder / "supervisor.pid"
        self._template = post.template or handover.new_name()
        self._keeper = None if post.template else OwnTemplate(self._template, post.dir)
        self._watched = selectors.DefaultSelector()
        self._lifeline = lifeline
        self._life: Life | None = None
        self._begin_at_s: float | None = time.monotonic()
        self._unanswered_since_s = time.monotonic()
        self._in_vain = 0
        self._started = False
        self._why = ""
        self._silence_s: float | None = None
        self._pulse_at_s: float | None = None
        self._looked_at_s = time.monotonic()
        self._asked: list[tuple[int, float]] = []
        self._leave_by_s: float | None = None

    def run(self) -> int:
        """The exit code; 1 also when the launcher's pipe ended."""
        self._catch_signals()
        crash.arm(self._post.dir, "supervisor", self._post.path)
        pids.write(self._own_file, os.getpid())
        if self._lifeline:
            self._watched.register(0, selectors.EVENT_READ)
        try:
            while True:
                code = self._turn()
                if code is not None:
                    return code
        except Exception as error:
            traceback.print_exc()
            return self._give_up(f"its supervisor broke: {type(error).__name__}: {error}")
        finally:
            self._close()

    def _turn(self) -> int | None:
        """Begin what is due, sleep until something happens, and see to it; the exit code if that was the end."""
        now = time.monotonic()
        if self._asked and (code := self._leave(now)) is not None:
            return code
        if self._begin_at_s is not None and now >= self._begin_at_s:
            self._begin_at_s = None
            self._begin()
        if (self._life is None or not self._life.pid) and now - self._unanswered_since_s > TEMPLATE_MOST_S:
            return self._give_up(f"no template answered within {TEMPLATE_MOST_S:g} s")
        if self._keeper is not None and not self._keeper.look(now, useful=self._life is not None):
            return self._give_up("its template could not be kept alive")
        ready = {key.fd for key, _ in self._watched.select(self._pause_s(now))}
        if self._woken in ready:
            os.read(self._woken, 4096)
        if self._lifeline and 0 in ready and not os.read(0, 4096):
            return 1
        life = self._life
        if life is None:
            return None
        if life.stdout in ready:
            self._forward(life)
        if life.pid and life.end in ready:
            return self._ended(life)
        if life.pid:
            self._look(life)
        elif life.line.fileno() in ready:
            self._answered(life)
        return None

    def _pause_s(self, now_s: float) -> float:
        pause_s = LOOK_S[self._life is None or self._life.made]
        due = [at_s - now_s for at_s in (self._begin_at_s, self._leave_by_s) if at_s is not None]
        return max(0.0, min([pause_s, *due]))

    # ---------------------------------------------------------------- leaving

    def _catch_signals(self) -> None:
        """They wake the loop, which looks at them between two of its moves."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        self._watched.register(self._woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in ASKED:
            signal.signal(number, lambda number, _frame: self._asked.append((number, time.monotonic())))

    def _leave(self, now_s: float) -> int | None:
        """See to it that the sphere leaves; the exit code if there is nothing to wait for, or no time left."""
        (number, first_s), (_, last_s) = self._asked[0], self._asked[-1]
        name = signal.Signals(number).name
        if last_s - first_s > ONE_WORD_S:
            self._log(f"sphere {self._post.path} ends at once, by a second signal")
            return restart.FAILED
        if self._leave_by_s is None:
            self._leave_by_s = now_s + DRAIN_S
            self._log(f"sphere {self._post.path} leaves: {name}")
            self._report({"leaving": self._post.path, "why": name})
            if self._life is None or not self._life.pid:
                return restart.DONE
            self._life.ask_to_leave()
        elif now_s >= self._leave_by_s:
            self._log(f"sphere {self._post.path} was not let go within {DRAIN_S:g} s of {name}: it ends [LW416]")
            return restart.FAILED
        return None

    # ---------------------------------------------------------------- a worker's begin

    def _begin(self) -> None:
        """Ask the template for a worker; a template that is not there is asked again."""
        former = pids.end_former(self._pid_file)
        crash.here("supervisor.before_asking")
        try:
            life = Life.ask(self._post, self._template, former)
        except OSError:
            self._begin_at_s = time.monotonic() + ASK_AGAIN_S
            return
        self._watched.register(life.line, selectors.EVENT_READ)
        self._life = life
        crash.here("supervisor.after_asking")

    def _answered(self, life: Life) -> None:
        """The template has forked, or died over it: then a half begun worker dies with the pipes."""
        try:
            life.take_answer()
        except OSError:
            self._drop(life)
            self._begin_at_s = time.monotonic() + ASK_AGAIN_S
            return
        self._watched.unregister(life.line)
        self._watched.register(life.end, selectors.EVENT_READ)
        if life.stdout >= 0:  # not before: what it prints is told after that it was started
            self._watched.register(life.stdout, selectors.EVENT_READ)
        self._pulse_at_s, self._looked_at_s = None, time.monotonic()
        if self._started:
            self._report({"again": self._post.path, "pid": life.pid, "why": self._why})
        else:
            self._report({"started": self._post.path, "pid": life.pid})
        self._started = True
        crash.here("supervisor.answered")

    # ---------------------------------------------------------------- its life and its end

    def _look(self, life: Life) -> None:
        """Hear what it says of itself; kill it if it is stuck. Our own sleep is not its silence."""
        had_made = life.made
        now = time.monotonic()
        slept_s = now - self._looked_at_s - LOOK_S[1]
        self._looked_at_s = now
        if life.read_status():
            self._pulse_at_s = now
        elif self._pulse_at_s is not None and slept_s > LOOK_S[1]:
            self._pulse_at_s += slept_s
        if life.made and not had_made:
            self._report({"working": self._post.path, "pid": life.pid})
        if is_stuck(self._pulse_at_s, now, self._time_limit()):
            self._log(f"sphere {self._post.path} (pid {life.pid}) gives no sign of life; it is killed")
            self._pulse_at_s = None
            life.kill()

    def _time_limit(self) -> float:
        """Read late: at the start every ms counts."""
        if self._silence_s is None:
            from lightwatch import config

            self._silence_s = config.load(self._post.dir / "config.toml", config.RunConfig()).control.silence_s
        return self._silence_s

    def _ended(self, life: Life) -> int | None:
        """It is dead: the exit code if that was for good, else another is begun when the rule says so."""
        code = life.last_code()
        terminated = code == restart.TERMINATED
        if terminated:
            code = restart.DONE
        if life.stdout >= 0:
            self._forward(life, ended=True)
        number = -code if code is not None and code < 0 else None
        told = None if number else code
        # By its own word: who only breaks off is started anew.
        final = terminated or (code in restart.FINAL and life.code is not None)
        if self._asked and not final:
            final, code = True, restart.FAILED  # nobody is started any more
        self._report({"exited": self._post.path, "pid": life.pid, "code": told, "signal": number, "final": final})
        self._drop(life)
        pids.end_former(self._pid_file)  # what it started is of its group
        if final:
            return code
        self._why = spoken_end(code)
        self._in_vain, pause_s = restart.next_life(self._in_vain, made=life.made)
        if pause_s is None:
            return self._give_up(f"it ended {self._in_vain} times in a row without making a version, {self._why} last")
        self._begin_at_s = self._unanswered_since_s = time.monotonic() + pause_s
        return None

    def _forward(self, life: Life, *, ended: bool = False) -> None:
        before = life.stdout
        if ended:
            self._watched.unregister(before)
        for line in life.read_stdout(ended=ended):
            self._report({"printed": self._post.path, "text": line})
        if life.stdout < 0 and not ended:
            self._watched.unregister(before)

    def _drop(self, life: Life) -> None:
        for source in (life.line, life.handle, life.stdout):
            if source != -1 and source in self._watched.get_map():
                self._watched.unregister(source)
        life.close()
        self._life = None

    # ---------------------------------------------------------------- words, and the end

    def _report(self, item: dict[str, object]) -> None:
        """One line, whole: a signal may cut a write short. If nobody reads, the lifeline tells us."""
        said = json.dumps(item) if self._post.template else spoken(item)
        line = said.encode(errors="replace") + b"\n" if said else b""
        try:
            while line:
                line = line[os.write(1, line) :]
        except OSError:
            pass

    def _log(self, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')},000 WARNING {text}\n")
        sys.stderr.flush()

    def _give_up(self, why: str) -> int:
        reason = f"sphere {self._post.path} was given up: {why} [LW413]"
        self._log(reason)
        self._report({"gave_up": self._post.path, "why": reason})
        return restart.FAILED

    def _close(self) -> None:
        if self._life is not None:
            self._drop(self._life)
        pids.end_former(self._pid_file)
        for file in (self._pid_file, self._own_file):
            file.unlink(missing_ok=True)
        if self._keeper is not None:
            self._keeper.close()
        self._watched.close()
        signal.set_wakeup_fd(-1)
        for end in (self._woken, self._wake):
            os.close(end)


class OwnTemplate:
    """A template for one supervisor alone, where there is no launcher: its child, started anew by the same rule."""

    def __init__(self, name: str, folder: Path) -> None:
        pids.adopt_orphans()
        self._command = [sys.executable, "-P", "-m", "spheres.template", "--dir", str(folder), "--socket", name]
        self._in_vain = 0
        self._again_at_s: float | None = None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=2, start_new_session=True)

    def look(self, now_s: float, *, useful: bool) -> bool:
        """Start it anew if it has ended, and reap what is left to us; False once it is given up.

        useful: whether it has forked a worker, as far as is known.
        """
        if self._again_at_s is not None:
            if now_s >= self._again_at_s:
                self._process, self._again_at_s = self._start(), None
            return True
        pids.reap_orphans({self._process.pid})
        if self._process.poll() is None:
            return True
        self._in_vain, pause_s = restart.next_life(self._in_vain, made=useful)
        if pause_s is None:
            return False
        self._again_at_s = now_s + pause_s
        return True

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        pids.reap_orphans(())
