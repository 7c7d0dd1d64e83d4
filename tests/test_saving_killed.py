"""A saving process that dies, or meets a disk that fails, at any of its calls: the newest whole checkpoint is found."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from lightwatch.checkpoints import checkpoints_in, newest_whole
from lightwatch.parts import read_state, state_digest
from lightwatch.saver import Saver
from lightwatch.snapshot import Snapshot
from tests.models import small_trainer

CALLS = ("openat", "mkdir", "rename", "unlink", "rmdir", "fsync", "write")


class Run:
    """One that keeps two checkpoints, and has them: versions 1 and 2, in `kept`. `folder` is a copy for each trial."""

    def __init__(self, place: Path) -> None:
        trainer = small_trainer(save_interval=0)
        trainer.train_steps(2)
        self._snapshot = trainer._stepper.snapshot()
        self._kept, self.folder = place / "kept", place / "folder"
        for version in (1, 2):
            assert self.save(version, self._kept) is None
        self.begin()

    def begin(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self._kept, self.folder)

    def save(self, version: int, into: Path | None = None) -> BaseException | None:
        facts = {**self._snapshot.facts, "position": [0, version, 0, 0]}
        saver = Saver(into or self.folder, "run", 2, lambda _: sys.audit("moment"))
        saver.begin(Snapshot(self._snapshot.tensors, facts), {"version": version, "lineage": 0})
        saver.flush()
        return saver.news()[0].error

    def found(self) -> int:
        """The newest version that is whole, with no word of any that is not; then the next save cleans up."""
        newest = newest_whole(self.folder)
        assert newest.manifest is not None and newest.path is not None and not newest.skipped
        assert state_digest(read_state(newest.path, newest.manifest)) == newest.manifest.state_digest
        assert self.save(4) is None
        assert len(checkpoints_in(self.folder)) == 2 and newest_whole(self.folder).path == self.folder / "step-4"
        assert len(self.files()) == 4
        self.begin()
        return newest.manifest.version

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def killed_at(number: int, body: Callable[[], object]) -> bool:
    """Run it in a fork that dies, without a word, just before its n-th call to the file system; whether it died."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    try:
        count = 0

        def call(event: str, _: object = None) -> None:
            nonlocal count
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.scandir", "moment"):
                count += 1
                if count == number:
                    os._exit(9)

        fsync = os.fsync

        def counted(fd: int) -> None:
            call("moment")
            fsync(fd)

        os.fsync = counted  # type: ignore[assignment]
        sys.addaudithook(call)
        body()
        os._exit(0)
    except BaseException:
        os._exit(1)


def test_killed_at_each_call_of_a_save_the_newest_whole_one_is_found(run: Run) -> None:
    """From its first look at the folder to the last file that is pruned, as Python sees its calls."""
    found = []
    for number in range(1, 200):
        if not killed_at(number, lambda: run.save(3)):
            break
        found.append(run.found())
    assert len(found) > 20 and found == sorted(found) and set(found) == {2, 3}


@pytest.mark.timeout(120)
def test_killed_at_100_random_moments_the_newest_whole_one_is_found(run: Run) -> None:
    """Wherever that is: in a system call, or between two."""
    began_s = time.monotonic()
    assert run.save(3) is None
    takes_s = time.monotonic() - began_s
    run.begin()
    chance, found = random.Random(6), []
    for _ in range(100):
        pid = os.fork()
        if not pid:
            try:
                run.save(3)
            finally:
                os._exit(0)
        time.sleep(chance.uniform(0, 1.5 * takes_s))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        found.append(run.found())
    assert set(found) <= {2, 3} and 2 in found


def traced(run: Run, *options: str) -> int:
    """The exit code of a fork that saves version 3 under strace with these options; its log is `log`."""
    pid = os.fork()
    if not pid:
        try:
            os.kill(os.getpid(), signal.SIGSTOP)
            os._exit(3 if run.save(3) else 0)
        finally:
            os._exit(1)
    os.waitpid(pid, os.WUNTRACED)
    log = run.folder.with_name("log")
    words = ["strace", "-f", "-qq", "-o", str(log), "-p", str(pid), *options]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as tracer:
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text() and tracer.poll() is None:
            time.sleep(0.002)
        os.kill(pid, signal.SIGCONT)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code


@pytest.fixture
def calls(run: Run) -> Counter[str]:
    """How often a save makes each call, as the kernel sees it."""
    if shutil.which("strace") is None or traced(run, "-e", f"trace={','.join(CALLS)}") != 0:
        pytest.skip("strace is not here, or may not look at other processes")
    counts = Counter(re.findall(r"^[0-9]+ +(\w+)\(", run.folder.with_name("log").read_text(), re.MULTILINE))
    if not counts:
        pytest.skip("strace may not look at other processes")
    run.begin()
    return counts


@pytest.mark.timeout(120)
def test_killed_at_each_system_call_of_a_save_the_newest_whole_one_is_found(run: Run, calls: Counter[str]) -> None:
    """By SIGKILL from the kernel, armed for the n-th call of each kind."""
    found: Counter[int] = Counter()
    assert all(calls[name] for name in CALLS)
    for name in CALLS:
        for when in range(1, calls[name] + 1):
            traced(run, "-e", f"trace={name}", "-e", f"inject={name}:signal=SIGKILL:when={when}")
            found[run.found()] += 1
    assert set(found) == {2, 3} and sum(found.values()) == sum(calls.values())


@pytest.mark.parametrize(
    "injected", ["fsync:error=EIO", "rename:error=EROFS", "write:error=ENOSPC", "mkdir:error=EACCES"]
)
def test_a_kernel_that_refuses_costs_that_save_alone(injected: str, run: Run, calls: Counter[str]) -> None:
    """It is given up and says so; nothing of it is left, and the older ones are as they were."""
    before = run.files()
    assert traced(run, "-e", f"trace={injected.partition(':')[0]}", "-e", f"inject={injected}") == 3
    assert run.files() == before and run.found() == 2


def test_a_slow_disk_only_takes_longer(run: Run, calls: Counter[str]) -> None:
    assert traced(run, "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=100000") == 0
    assert run.found() == 3
