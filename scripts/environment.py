"""Makes `.venv`, the environment that scripts/train and scripts/test share.

Laws
  1. An environment counts as whole only if its stamp is right, and the stamp is written last.
  2. A new one is made as `.venv.new` and renamed; whatever interrupts that leaves the old one as it was.
  3. One set-up of a folder at a time. The lock is the kernel's, and pip holds it too: it outlives us if we are killed.

torch comes first, in a step of its own, because its index may have to be another than everybody else's: on Linux
without an NVIDIA driver the ordinary index would give a build ten times the size of the one for CPUs.

Standard library only, on any Python from 3.11. Says what it does on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
NEW = ROOT / ".venv.new"
OLD = ROOT / ".venv.old"
LOCK = ROOT / ".venv.lock"
STAMP = "lightwatch-stamp.json"
FIRST_IMPORTS = "import torch.distributed, numpy, zmq, msgspec, rich.live, safetensors.torch, psutil"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
CPU_INDEX = "https://download.pytorch.org/whl/cpu"


class SetUpError(Exception):
    """The environment could not be made; the sentence is for the user."""


class Interrupted(Exception):
    """A signal asked us to end, or the script that called us is gone."""


def main() -> int:
    parser = argparse.ArgumentParser(description="Make the environment .venv, or do nothing if it is there.")
    parser.add_argument("extras", choices=("run", "dev"), help="dev: with what the tests need")
    parser.add_argument("--python", default=sys.executable, help="the interpreter to build on")
    parser.add_argument("--ready", action="store_true", help="only ask: exit code 0 if nothing is to be done")
    arguments = parser.parse_args()
    extras = ["dev"] if arguments.extras == "dev" else []
    if arguments.ready:
        return 0 if is_ready(extras) else 1
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        with one_at_a_time() as lock:
            set_up(arguments.python, extras, lock)
    except (SetUpError, OSError) as error:
        say(str(error))
        return 1
    except Interrupted:
        say("set-up interrupted; nothing half made is left")
        return 130
    return 0


def set_up(python: str, extras: list[str], lock: int) -> None:
    """Make, widen or leave the environment; afterwards `is_ready(extras)`. Blocks for as long as pip does."""
    if is_ready(extras):
        return
    if is_ready([]):
        say("adding what the tests need to .venv (about 40 MB to download, unless pip's cache has it)")
        wanted = pyproject()["project"]["optional-dependencies"]["dev"]
        pip(VENV, ["install", "--constraint", "constraints.txt", *wanted], lock)
        # What ran before still runs: the versions are pinned, so pip only adds. That is why the old stamp could stay.
        write_stamp(VENV, extras)
        return
    remove(NEW)
    try:
        build(python, extras, lock)
    except BaseException:
        remove(NEW)
        raise
    swap(extras)
    say(".venv is ready")


def swap(extras: list[str]) -> None:
    """Put .venv.new in the place of .venv, then stamp it; a signal waits until that is done."""
    remove(OLD)
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if VENV.exists() or VENV.is_symlink():
        VENV.rename(OLD)
    NEW.rename(VENV)
    write_stamp(VENV, extras)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    remove(OLD)


def build(python: str, extras: list[str], lock: int) -> None:
    """Make .venv.new whole, so that renaming it is all that is left to do."""
    pin = torch_pin()
    small = "a dozen smaller packages (about 60 MB)" if not extras else "some smaller packages (about 100 MB)"
    say(f"setting up .venv, once, with Python {platform.python_version()}: {torch_size()}, and {small}")
    say("what pip has in its cache is not downloaded again")
    command([python, "-m", "venv", "--prompt", "lightwatch", str(NEW)], "making the environment", lock)
    say(f"1/2 {pin}")
    pip(NEW, ["install", "--constraint", "constraints.txt", *torch_source(pin, lock), pin], lock)
    say("2/2 lightwatch and its other dependencies")
    target = f".[{','.join(extras)}]" if extras else "."
    pip(NEW, ["install", "--constraint", "constraints.txt", "--editable", target], lock)
    # This proves that what was installed loads, and leaves its bytecode behind.
    command([str(NEW / "bin" / "python"), "-I", "-c", FIRST_IMPORTS], "the first import", lock)
    move_paths(NEW, VENV)


def torch_pin() -> str:
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("torch=="):
            return line.strip()
    raise SetUpError("constraints.txt pins no torch")


def takes_cpu_build() -> bool:
    """Linux on x86-64 without an NVIDIA driver: the ordinary index would send gigabytes that are of no use here."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    return not Path("/proc/driver/nvidia").exists() and shutil.which("nvidia-smi") is None


def torch_size() -> str:
    if takes_cpu_build():
        return "PyTorch for CPUs (about 190 MB to download, 750 MB on disk)"
    if sys.platform == "linux" and platform.machine() == "x86_64":
        return "PyTorch with CUDA (about 3 GB to download, 7 GB on disk)"
    return "PyTorch (about 100 MB to download, 500 MB on disk)"


def torch_source(pin: str, lock: int) -> list[str]:
    """pip's options for torch's own step. Asking for `+cpu` by name downloads nothing where there is no such build."""
    if not takes_cpu_build():
        return []
    asked = ["install", "--dry-run", "--no-deps", "--quiet", f"{pin}+cpu"]
    if run([*pip_of(NEW), *asked], lock, quiet=True) == 0:
        return []
    return ["--index-url", CPU_INDEX, "--no-deps"]


def pip_of(venv: Path) -> list[str]:
    return [str(venv / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]


def pip(venv: Path, arguments: list[str], lock: int) -> None:
    shown = [] if sys.stderr.isatty() else ["--quiet"]
    verb, *rest = arguments
    # Compiling all of torch would take half a minute; the few modules in use are compiled when they are first imported.
    command([*pip_of(venv), *shown, verb, "--no-compile", *rest], "pip " + " ".join(arguments), lock)


def command(arguments: list[str], what: str, lock: int) -> None:
    code = run(arguments, lock)
    if code != 0:
        raise SetUpError(f"set-up failed with exit code {code}: {what}. The lines above say why; nothing was changed")


def run(arguments: list[str], lock: int, quiet: bool = False) -> int:
    """Run to the end; if we are interrupted, its whole process group ends before we do."""
    environment = {**os.environ, "PIP_USER": "0"}
    for name in ("PYTHONHOME", "PYTHONPATH", "__PYVENV_LAUNCHER__"):
        environment.pop(name, None)
    output = subprocess.DEVNULL if quiet else sys.stderr
    caller = os.getppid()
    child = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=(lock,),
    )
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(timeout=0.5)
            if os.getppid() != caller:
                raise Interrupted
    except BaseException:
        end(child)
        raise


def end(child: subprocess.Popen[bytes]) -> None:
    """End it as Ctrl-C would, so that pip clears its temporary folders; insist after 10 s."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(timeout=10)
            return


def move_paths(made: Path, final: Path) -> None:
    """Scripts and settings of an environment hold its absolute path: write the one that it is about to get."""
    for file in (made / "pyvenv.cfg", *(made / "bin").iterdir()):
        if file.is_symlink() or not file.is_file():
            continue
        text = file.read_bytes()
        if os.fsencode(made) in text:
            file.write_bytes(text.replace(os.fsencode(made), os.fsencode(final)))


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def inputs() -> str:
    """The hash of the files that say what is installed, and of what gets compiled."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt", "setup.py", "lightwatch/_sums.c"):
        text = (ROOT / name).read_bytes()
        digest.update(b"%d " % len(text) + text)
    return digest.hexdigest()


def is_ready(extras: list[str]) -> bool:
    """Whether .venv is whole, made from today's inputs, for this folder, with these extras (or more)."""
    stamp = read_stamp()
    made_for = stamp.get("inputs") == inputs() and stamp.get("root") == str(ROOT)
    return made_for and set(extras) <= set(stamp.get("extras", ())) and os.access(VENV / "bin" / "python", os.X_OK)


def read_stamp() -> dict[str, Any]:
    try:
        stamp = json.loads((VENV / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(venv: Path, extras: list[str]) -> None:
    aside = venv / (STAMP + ".new")
    aside.write_text(json.dumps({"inputs": inputs(), "root": str(ROOT), "extras": extras}) + "\n", encoding="utf-8")
    aside.replace(venv / STAMP)


@contextlib.contextmanager
def one_at_a_time() -> Iterator[int]:
    with LOCK.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another set-up is at work in this folder; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def interrupt(number: int, frame: object) -> NoReturn:
    """The first signal ends the set-up; clearing up takes seconds, and further signals would only spoil it."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted


def say(sentence: str) -> None:
    print(f"[set-up] {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
