"""The set-up that scripts/train and scripts/test share, with a fake Python: what it asks for and what it leaves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house.fake_python import Tree, is_alive


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = Tree(tmp_path)
    yield tree
    tree.end_hanging()


def wait_until(condition: Callable[[], object], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def pips(tree: Tree) -> list[str]:
    return [line for line in tree.log() if line.startswith("pip ")]


def test_the_first_run_makes_the_environment_and_the_second_does_nothing(tree: Tree) -> None:
    """torch in a step of its own, then the rest, both constrained; then the run, from the root, with its arguments."""
    first = tree.run("scripts/train", "--steps", "3", "--data", "two words")
    assert first.returncode == 0, first.stderr
    assert first.stdout.splitlines()[0] == f"ran in {tree.root}: -m lightwatch train --steps 3 --data two words"
    assert tree.log()[0] == "venv"
    torch_step, rest = pips(tree)
    assert "torch==" in torch_step
    assert "--editable" not in torch_step
    assert rest.endswith("--editable .")
    assert "--constraint constraints.txt" in torch_step
    assert "--constraint constraints.txt" in rest
    assert "MB" in first.stderr.splitlines()[0]
    assert tree.left() == {".venv"}
    before = tree.log()
    second = tree.run("scripts/train", "--steps", "3")
    assert second.returncode == 0
    assert second.stderr == ""
    assert tree.log() == before


def test_the_set_up_leaves_stdin_to_the_run(tree: Tree) -> None:
    """A line that waits on stdin is still there when the set-up is over; all the set-up says is on stderr."""
    done = tree.run("scripts/train")
    assert done.stdout.splitlines()[1:] == ["stdin: a line"]


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "setup.py", "lightwatch/_sums.c"])
def test_a_change_of_what_is_installed_sets_up_again(tree: Tree, name: str) -> None:
    """The stamp is of the files that say what is installed, and of what gets compiled."""
    tree.run("scripts/train")
    with (tree.root / name).open("a") as file:
        file.write("# more\n")
    tree.run("scripts/train")
    assert tree.log().count("venv") == 2
    assert tree.left() == {".venv"}


def test_a_folder_that_was_moved_sets_up_again(tree: Tree) -> None:
    """An environment holds absolute paths: in another place it is not whole, and may be somebody else's."""
    tree.run("scripts/train")
    tree.root = tree.root.rename(tree.root.parent / "another place")
    done = tree.run("scripts/train")
    assert done.returncode == 0
    assert tree.log().count("venv") == 2


def test_the_tests_add_what_they_need_to_what_is_there(tree: Tree) -> None:
    """One environment for both: after a run, the tests only add; after the tests, a run adds nothing."""
    tree.run("scripts/train")
    tree.run("scripts/test")
    assert tree.log().count("venv") == 1
    assert len(pips(tree)) == 3
    assert "pytest>=9" in pips(tree)[2]
    assert "--constraint constraints.txt" in pips(tree)[2]
    tree.run("scripts/train")
    tree.run("scripts/test")
    assert len(pips(tree)) == 3


def test_the_tests_come_after_lint_and_types_and_pytest_speaks_last(tree: Tree) -> None:
    """And .ci/run is the same."""
    done = tree.run(".ci/run")
    assert done.returncode == 0, done.stderr
    assert pips(tree)[1].endswith("--editable .[dev]")
    ran = [line for line in tree.log() if line.startswith("ran ")]
    assert [line.split()[2] for line in ran] == ["ruff", "ruff", "mypy", "pytest", "pytest"]
    assert done.stdout.splitlines()[-1] == "ran -m pytest"
    assert tree.run("scripts/test", "-k", "digest").stdout.splitlines()[-1] == "ran -m pytest -k digest"


@pytest.mark.parametrize("tool", ["ruff", "mypy", "pytest"])
def test_what_fails_fails_the_whole(tree: Tree, tool: str) -> None:
    """The exit code of scripts/test is not zero if any part of it fails."""
    assert tree.run("scripts/test", fake=f"{tool} fails").returncode != 0


def cpu_machine(tree: Tree) -> None:
    """A machine that could take the CPU build, whatever this one is."""
    script = tree.root / "scripts" / "environment.py"
    text = script.read_text()
    assert "def takes_cpu_build() -> bool:\n" in text
    script.write_text(
        text.replace("def takes_cpu_build() -> bool:\n", "def takes_cpu_build() -> bool:\n    return True\n")
    )


def test_without_a_local_build_torch_alone_comes_from_the_cpu_index(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other package is taken from there, not even what torch depends on."""
    cpu_machine(tree)
    done = tree.run("scripts/train", fake="no-cpu")
    assert done.returncode == 0, done.stderr
    torch_step, rest = pips(tree)
    assert "--index-url https://download.pytorch.org/whl/cpu --no-deps torch==" in torch_step
    assert "index" not in rest


def test_a_local_cpu_build_is_taken_from_where_it_is(tree: Tree) -> None:
    """pip is asked by the build's full name, which downloads nothing where there is none."""
    cpu_machine(tree)
    tree.run("scripts/train")
    asked = [line for line in tree.log() if line.startswith("asked ")]
    assert [line.endswith("+cpu") for line in asked] == [True]
    assert "index" not in pips(tree)[0]


def test_a_failing_pip_leaves_what_was_there(tree: Tree) -> None:
    """The old environment stays, nothing half made does, and the sentence says which step it was."""
    failed = tree.run("scripts/train", fake="fails")
    assert failed.returncode == 1
    assert "no such thing" in failed.stderr
    assert "pip install --constraint constraints.txt --editable ." in failed.stderr.splitlines()[-1]
    assert failed.stdout == ""
    assert tree.left() == set()
    tree.run("scripts/train")
    (tree.root / "constraints.txt").write_text("torch==2.13.0\n")
    assert tree.run("scripts/train", fake="fails").returncode == 1
    assert tree.left() == {".venv"}
    assert tree.run("scripts/train").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_set_up_leaves_nothing(tree: Tree, number: signal.Signals) -> None:
    """Ctrl-C goes to the whole group; a SIGTERM may reach the script alone. pip ends either way."""
    process = tree.start("scripts/train", fake="hangs")
    wait_until(tree.hanging)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGTERM)
    assert "interrupted" in err
    assert tree.left() == set()
    assert not is_alive(tree.hanging())
    assert tree.run("scripts/train").returncode == 0


def test_a_killed_set_up_is_not_taken_for_whole(tree: Tree) -> None:
    """What SIGKILL leaves is cleared by the next set-up, which waits until the orphaned pip is gone."""
    process = tree.start("scripts/train", fake="hangs")
    wait_until(tree.hanging)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    assert tree.left() == {".venv.new"}
    following = tree.start("scripts/train")
    assert following.stderr
    assert "another set-up is at work" in following.stderr.readline()
    tree.end_hanging()
    process.communicate(timeout=30)
    following.communicate(timeout=30)
    assert following.returncode == 0
    assert tree.left() == {".venv"}


def test_two_at_once_make_one_environment(tree: Tree) -> None:
    """The second waits for the first and finds everything done."""
    processes = [tree.start("scripts/train") for _ in range(3)]
    for process in processes:
        process.communicate(timeout=30)
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert tree.log().count("venv") == 1


def test_paths_in_the_environment_are_those_after_the_renaming(tree: Tree) -> None:
    """Scripts name their interpreter by its absolute path."""
    tree.run("scripts/train")
    assert (tree.root / ".venv" / "bin" / "tool").read_text() == f"here: {tree.root / '.venv'}\n"


def test_the_stamp_says_what_it_is_of(tree: Tree) -> None:
    """A stamp that can't be read is no stamp."""
    tree.run("scripts/train")
    stamp = tree.root / ".venv" / "lightwatch-stamp.json"
    assert json.loads(stamp.read_text())["root"] == str(tree.root)
    stamp.write_text("{")
    tree.run("scripts/train")
    assert tree.log().count("venv") == 2


def test_a_python_that_is_too_old_is_named(tree: Tree) -> None:
    """With the versions that were found, and nothing is made."""
    tree.add_python("python3", '#!/usr/bin/env bash\n[ "$1" = --version ] && echo Python 3.9.2\nexit 1\n')
    done = tree.run("scripts/train")
    assert done.returncode == 1
    assert done.stderr == "lightwatch needs Python 3.11 or newer on the PATH; found: python3 (Python 3.9.2)\n"
    assert tree.left() == set()


def test_another_python_is_found_under_its_longer_name(tree: Tree) -> None:
    """The first that is new enough is taken, whatever `python3` is."""
    (tree.path / "python3").rename(tree.path / "python3.12")
    tree.add_python("python3", "#!/usr/bin/env bash\nexit 1\n")
    assert tree.run("scripts/train").returncode == 0


def test_no_python_at_all_is_said(tree: Tree) -> None:
    """In one line."""
    (tree.path / "python3").unlink()
    done = tree.run("scripts/train")
    assert done.returncode == 1
    assert done.stderr == "lightwatch needs Python 3.11 or newer on the PATH; found: none\n"


def test_a_missing_ensurepip_is_named_with_its_package(tree: Tree) -> None:
    """Debian's python3 comes without; the sentence can be typed."""
    lacking = '#!/usr/bin/env bash\ncase "$*" in *"import ensurepip"*) exit 1 ;; esac\nexec "$REAL" "$@"\n'
    tree.add_python("python3", lacking)
    done = tree.run("scripts/train")
    assert done.returncode == 1
    assert "apt install python3." in done.stderr
    assert done.stderr.rstrip().endswith("-venv")
    assert tree.left() == set()
