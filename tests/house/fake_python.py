"""A copy of the scripts in a folder with blanks, and a `python3` that makes environments of fakes in no time.

What the fakes are asked to do stands in the log, a line each. FAKE says how pip behaves: "fails" at lightwatch's step,
"hangs" there until it is ended, "no-cpu" if there is no local +cpu build of torch.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from tests.house.source import ROOT

TOOLS = ("bash", "cat", "dirname", "env", "head", "mkdir", "sleep")
COPIED = ("scripts", ".ci", "pyproject.toml", "constraints.txt", "setup.py", "lightwatch")

BASE = """#!/usr/bin/env bash
if [ "${1-} ${2-}" != "-m venv" ]; then exec "$REAL" "$@"; fi
echo "venv" >> "$LOG"
venv="${*: -1}"
mkdir -p "$venv/bin"
cat "$INNER" > "$venv/bin/python"
"$REAL" -c 'import os, sys; os.chmod(sys.argv[1], 0o755)' "$venv/bin/python"
echo "here: $venv" > "$venv/bin/tool"
"""

INNER = """#!/usr/bin/env bash
case "$*" in
  *"scripts/environment.py"*) exec "$REAL" "$@" ;;
  *"--dry-run"*) echo "asked ${*: -1}" >> "$LOG"; [ "${FAKE-}" != no-cpu ] || exit 1 ;;
  *"--editable"*)
    echo "pip $*" >> "$LOG"
    if [ "${FAKE-}" = fails ]; then echo "no such thing" >&2; exit 7; fi
    if [ "${FAKE-}" = hangs ]; then echo "$$" > "$LOG.hangs"; exec sleep 600; fi ;;
  *"-m pip"*) echo "pip $*" >> "$LOG" ;;
  *"-m lightwatch"*) echo "ran in $PWD: $*"; echo "stdin: $(cat)" ;;
  *"-m "*) echo "ran $*"; echo "ran $*" >> "$LOG"; [ "${FAKE-}" != "$2 fails" ] || exit 3 ;;
esac
"""


class Tree:
    """A fresh clone, as far as the scripts can tell."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a clone with blanks"
        self.root.mkdir()
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.root / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, self.root / name)
        self.log_file = folder / "log"
        self.log_file.touch()
        self.path = folder / "bin"
        self.path.mkdir()
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.path / tool).symlink_to(found)
        self.add_python("python3", BASE)
        (folder / "inner").write_text(INNER)
        self.environment = {
            "PATH": str(self.path),
            "HOME": str(folder),
            "REAL": str(Path(sys.executable)),
            "LOG": str(self.log_file),
            "INNER": str(folder / "inner"),
        }

    def add_python(self, name: str, text: str) -> None:
        (self.path / name).write_text(text)
        (self.path / name).chmod(0o755)

    def start(self, *command: str, fake: str = "") -> subprocess.Popen[str]:
        """Start one of the scripts from another folder, in a session of its own; its stdin holds a line."""
        process = subprocess.Popen(
            [str(self.root / command[0]), *command[1:]],
            cwd=self.path,
            env={**self.environment, "FAKE": fake},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stdin
        process.stdin.write("a line")
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, *command: str, fake: str = "") -> subprocess.CompletedProcess[str]:
        process = self.start(*command, fake=fake)
        out, err = process.communicate(timeout=30)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def log(self) -> list[str]:
        return self.log_file.read_text().splitlines()

    def left(self) -> set[str]:
        """Which of the set-up's folders are there."""
        return {name for name in (".venv", ".venv.new", ".venv.old") if (self.root / name).exists()}

    def hanging(self) -> int:
        """The id of the pip that hangs; 0 if none does yet."""
        file = Path(f"{self.log_file}.hangs")
        text = file.read_text().strip() if file.exists() else ""
        return int(text or 0)

    def end_hanging(self) -> None:
        if self.hanging() and is_alive(self.hanging()):
            os.kill(self.hanging(), signal.SIGKILL)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
