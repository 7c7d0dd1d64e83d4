"""What the examples for Slurm and Kubernetes say can be read by those who will read it."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest

from tests.house.source import ROOT

EXAMPLES = ROOT / "scripts" / "examples"
DEADLINE_S = 25
"""In which a supervisor that was told to leave does."""


class Reader:
    """Block YAML of mappings, lists, plain scalars and literal blocks, and nothing else: what it can't read is wrong.

    >>> Reader("a:\\n  - b: 1\\n    c: |\\n      x\\n").value(0)
    {'a': [{'b': '1', 'c': 'x\\n'}]}
    """

    def __init__(self, text: str) -> None:
        assert "\t" not in text
        self.lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]

    def value(self, indent: int) -> Any:
        """The mapping or list that begins here, at exactly this indent."""
        is_list = self.lines[0][indent:].startswith("- ")
        found: Any = [] if is_list else {}
        while self.lines and _indent(self.lines[0]) >= indent:
            line = self.lines[0]
            assert _indent(line) == indent and line[indent:].startswith("- ") == is_list, f"indent of {line!r}"
            if is_list:
                found.append(self._item(indent))
                continue
            name, value = self._pair(indent)
            assert name not in found, f"{name} twice"
            found[name] = value
        return found

    def _item(self, indent: int) -> Any:
        text = self.lines[0][indent + 2 :]
        if text == "|":
            self.lines.pop(0)
            return self._block(indent)
        if re.match(r"\w+:( |$)", text):
            self.lines[0] = " " * (indent + 2) + text
            return self.value(indent + 2)
        self.lines.pop(0)
        return text

    def _pair(self, indent: int) -> tuple[str, Any]:
        line = self.lines.pop(0)
        match = re.fullmatch(r"(\w+):(?: (\S.*))?", line[indent:])
        assert match is not None, f"no pair: {line!r}"
        if match[2] == "|":
            return match[1], self._block(indent)
        if match[2] is not None:
            return match[1], match[2].strip('"')
        assert self.lines and _indent(self.lines[0]) > indent, f"nothing below {line!r}"
        return match[1], self.value(_indent(self.lines[0]))

    def _block(self, above: int) -> str:
        indent = _indent(self.lines[0])
        assert indent > above, f"no block: {self.lines[0]!r}"
        text = ""
        while self.lines and _indent(self.lines[0]) >= indent:
            text += self.lines.pop(0)[indent:] + "\n"
        return text


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def jobs() -> dict[str, dict[str, Any]]:
    """The JobSet's jobs by name."""
    found = Reader((EXAMPLES / "jobset.yaml").read_text(encoding="utf-8")).value(0)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    return {job["name"]: job["template"]["spec"] for job in found["spec"]["replicatedJobs"]}


def is_shell(text: str, shell: str = "bash") -> None:
    checked = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, timeout=20, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_sbatch_file_is_a_shell_script_that_slurm_tells_before_the_end() -> None:
    """Slurm reads its lines above the first command only; the signal goes to the script alone, which hands it on."""
    text = (EXAMPLES / "slurm.sbatch").read_text(encoding="utf-8")
    is_shell(text)
    lines = text.splitlines()
    given = [place for place, line in enumerate(lines) if line.startswith("#SBATCH ")]
    first = next(place for place, line in enumerate(lines) if line and not line.startswith("#"))
    assert given and max(given) < first
    before_s = re.search(r"^#SBATCH --signal=B:USR1@(\d+)$", text, re.MULTILINE)
    assert before_s is not None and int(before_s[1]) > DEADLINE_S
    assert 'kill -USR1 "$spheres"' in text


@pytest.mark.parametrize("job", ["control", "spheres"])
def test_what_the_pods_run_is_shell(job: str) -> None:
    (container,) = jobs()[job]["template"]["spec"]["containers"]
    is_shell(container["command"][-1], "sh")


def test_a_pod_has_the_time_to_leave_politely_and_another_takes_its_place() -> None:
    """Its exit code says that it left, and that one is no failure of the job."""
    spheres = jobs()["spheres"]
    pod = spheres["template"]["spec"]
    assert int(pod["terminationGracePeriodSeconds"]) > DEADLINE_S
    (rule,) = spheres["podFailurePolicy"]["rules"]
    (container,) = pod["containers"]
    assert rule["action"] == "Ignore" and rule["onExitCodes"]["containerName"] == container["name"]
    (code,) = rule["onExitCodes"]["values"]
    assert f'[ -z "$leaving" ] || exit {code}' in container["command"][-1]
    assert pod["restartPolicy"] == "Never", "a podFailurePolicy needs it"


def test_control_waits_for_as_many_spheres_as_there_are_pods() -> None:
    found = jobs()
    (container,) = found["control"]["template"]["spec"]["containers"]
    assert f"--wait-for {found['spheres']['parallelism']} " in container["command"][-1]
    assert found["spheres"]["parallelism"] == found["spheres"]["completions"]
