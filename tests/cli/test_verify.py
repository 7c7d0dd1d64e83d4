"""`lightwatch verify`: a run that was left alone holds; what was changed afterwards is found, each by what is wrong."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from control.ledger import Ledger
from control.record import read_record
from lightwatch import GPT
from lightwatch.checkpoint import save_snapshot
from lightwatch.cli.main import main
from lightwatch.cli.recording import Recording
from lightwatch.config import RunConfig, load
from lightwatch.flat import digest_of
from lightwatch.job import build, finish
from lightwatch.snapshot import Snapshot
from tests.cli.commands import TINY, lightwatch, refused

pytestmark = pytest.mark.timeout(180)

Command = Callable[..., subprocess.CompletedProcess[str]]
TREES = ["1", "2"]
STEPS = 6
"""Of 3 x 2 samples; of the 22 there are, the fourth step shows four, and its last micro-batch is empty."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with the finished run of each tree, and one whose learning rate was ordered: `rate`."""
    folder = tmp_path_factory.mktemp("verify")
    toml = TINY.replace("max_steps = 4", f"max_steps = {STEPS}\nverify_interval = 2\neval_interval = 3")
    (folder / "tiny.toml").write_text(toml)
    (folder / "text.txt").write_text("".join(f"line {n}: the quick brown fox, {n * n} times\n" for n in range(10)))
    for tree in TREES:
        words = ["--config", "tiny.toml", "--data", "text.txt", "--tree", tree, "--out", tree, "--quiet"]
        done = lightwatch("train", *words, folder=folder)
        assert done.returncode == 0, done.stderr
    trained_by_order(folder / "rate", load(folder / "1" / "config.toml", RunConfig()))
    yield folder


def trained_by_order(folder: Path, run: RunConfig) -> None:
    """A run whose learning rate was ordered while version 3 was made, as control would have written it down."""
    shutil.copytree(folder.parent / "1", folder)
    for name in ("ledger.db", "summary.json"):
        (folder / name).unlink()
    with Ledger.open(folder / "ledger.db", "cafe") as ledger, (folder / "metrics.jsonl").open("wb") as metrics:
        sync = Recording(
            ledger,
            metrics,
            tell=lambda row: None,
            keep=lambda model: finish(model, folder, 0),
            configured=lambda config: None,
            stop_wanted=lambda: False,
        )
        trainer = build(run, sync)
        trainer.on_step_end = lambda state: trainer.set_learning_rate(0.01) if state.step == 2 else None
        trainer.train()
        ledger.end("completed", "reached its end")
    change(folder, "INSERT INTO generations VALUES (1, 1, '[\"0\"]', 0)")
    change(folder, "INSERT INTO orders VALUES (1, 'set_learning_rate', '{\"learning_rate\": 0.01}', 3)")


@pytest.fixture
def copy(runs: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A run's folder to be spoiled."""

    def of(tree: str) -> Path:
        return Path(shutil.copytree(runs / tree, tmp_path / f"run-{tree}"))

    return of


@pytest.fixture
def verify(capfd: pytest.CaptureFixture[str]) -> Command:
    """The command in this process, which has loaded torch already."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = ["verify", *map(str, words)]
        code = main(command)
        out, err = capfd.readouterr()
        return subprocess.CompletedProcess(command, code, out, err)

    return run


def change(folder: Path, sql: str, *values: object) -> None:
    """Change the ledger by hand."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        connection.execute(sql, values)


def change_row(folder: Path, number: int, **fields: object) -> None:
    """Change these fields of a row's JSON."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        (text,) = connection.execute("SELECT row FROM versions WHERE version = ?", (number,)).fetchone()
    assert fields.keys() <= json.loads(text).keys()
    change(folder, "UPDATE versions SET row = ? WHERE version = ?", json.dumps(json.loads(text) | fields), number)


def contradicted(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 1, and one sentence on stderr with these words."""
    assert result.returncode == 1, result.stdout + result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("lightwatch: ") and lines[0].endswith("[LW533]"), result.stderr
    for word in words:
        assert word in lines[0], result.stderr
    assert "nothing that was checked" not in result.stdout


# ---------------------------------------------------------------- a run as it was left


@pytest.mark.parametrize("tree", [*TREES, "rate"])
def test_a_run_as_it_was_left_holds(tree: str, runs: Path, verify: Command) -> None:
    """Rows, files and replay; the ragged step of the epoch and the orders included. Nothing is changed by it."""
    before = sorted((path.name, path.stat().st_size) for path in (runs / tree).iterdir())
    result = verify(runs / tree)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "versions 0 to 6 without a gap" in result.stdout
    assert "6 steps of 3 micro-batches, each counted exactly once: 34 samples, 544 targets" in result.stdout
    assert f"model.safetensors is version 6, digest {read_record(runs / tree / 'ledger.db').digest}" in result.stdout
    assert "versions 0 to 6 made again in one process" in result.stdout
    assert "equal: checks 7, digests 4" in result.stdout
    assert result.stdout.endswith("nothing that was checked contradicts anything else\n")
    assert sorted((path.name, path.stat().st_size) for path in (runs / tree).iterdir()) == before


def test_json_is_one_object_with_all_that_was_found(runs: Path, verify: Command) -> None:
    """And no line for people on stdout."""
    result = verify(runs / "2", "--json", "--steps", "2:5")
    (line,) = result.stdout.splitlines()
    found = json.loads(line)
    assert result.returncode == 0 and result.stderr == ""
    assert (found["verdict"], found["status"], found["contradictions"]) == ("holds", "completed", [])
    assert found["ledger"]["samples"] == 34 and [each["version"] for each in found["files"]] == [0, STEPS, STEPS, STEPS]
    del found["replay"]["seconds"]
    assert found["replay"] == {"from": 2, "to": 5, "checks": 4, "digests": 2, "equal": True}


def test_a_part_is_called_a_part(runs: Path, verify: Command) -> None:
    """Nobody must take twenty versions for all."""
    result = verify(runs / "1", "--sample", "2")
    assert "versions 0 to 2 made again" in result.stdout and "`--steps 0:6` makes all 6 again" in result.stdout
    result = verify(runs / "1", "--sample", "0")
    assert result.returncode == 0 and "made again" not in result.stdout and "the replay: --sample 0" in result.stdout


def test_a_run_that_goes_on_is_verified_as_far_as_it_is(verify: Command, copy: Callable[[str], Path]) -> None:
    """Its last row is one sphere's claim, and it has no model yet."""
    folder = copy("2")
    change(folder, "DELETE FROM run WHERE key = 'status'")
    change(folder, "DELETE FROM events WHERE kind = 'SphereClosed'")
    change(folder, "DELETE FROM versions WHERE version = 6")
    change(folder, "UPDATE versions SET state = 'claimed' WHERE version = 5")
    (folder / "model.safetensors").unlink()
    result = verify(folder)
    assert result.returncode == 0, result.stderr
    assert "not ended, at version 5" in result.stdout and "model.safetensors: there is none" in result.stdout


# ---------------------------------------------------------------- changed afterwards


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("digest", "0" * 64, "version 2, digest: expected"),
        ("check", "12345", "version 2, check: expected"),
        ("loss", 1.25, "version 2, loss: expected"),
        ("learning_rate", 0.5, "version 2, learning rate: expected"),
        ("state", "claimed", "version 2, state: expected agreed"),
    ],
)
def test_a_column_changed_by_hand_contradicts_its_row(
    tree: str, column: str, value: object, said: str, verify: Command, copy: Callable[[str], Path]
) -> None:
    folder = copy(tree)
    change(folder, f'UPDATE versions SET "{column}" = ? WHERE version = 2', value)
    contradicted(verify(folder), said)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"samples": 7}, "version 2, samples: expected 6 by the data, found 7"),
        ({"samples": 12, "weight": 192}, "version 2, samples: expected 6 by the data, found 12"),
        ({"weight": 95}, "version 2, weight: expected 96 by the data, found 95"),
        ({"own_units": 99}, "version 2, own units: expected"),
        ({"epoch": 1}, "version 2, epoch: expected 0 by the data, found 1"),
        ({"digest": "0" * 64}, "version 2, digest: expected"),
        ({"check": 12345}, "version 2, check: expected"),
        ({"loss": 1.25}, "version 2, loss: expected 1.25 by its row"),
        ({"learning_rate": 0.5}, "version 2, learning rate: expected 0.5 by its row"),
        ({"in_force": 1}, "order in force: expected"),
        ({"grad_norm": 1.25}, "version 2, grad norm: expected"),
        ({"skipped": True}, "version 2, weight: expected 0"),
        ({"version": 3}, "version 2, version: expected 3 by its row, found 2"),
        ({"attempts": "one"}, "version 2, row: expected a whole row"),
    ],
)
def test_a_row_changed_by_hand_is_found(
    tree: str, fields: dict[str, object], said: str, verify: Command, copy: Callable[[str], Path]
) -> None:
    """A micro-batch counted twice, too."""
    folder = copy(tree)
    change_row(folder, 2, **fields)
    contradicted(verify(folder), said)


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("check", 12345, "version 3, check: expected"),
        ("loss", 1.25, "version 3, loss: expected"),
        ("learning_rate", 0.5, "version 3, learning rate: expected"),
    ],
)
def test_a_row_and_its_column_changed_alike_contradict_what_makes_them(
    tree: str, column: str, value: float, said: str, verify: Command, copy: Callable[[str], Path]
) -> None:
    """The replay, or the schedule."""
    folder = copy(tree)
    change_row(folder, 3, **{column: value})
    change(folder, f'UPDATE versions SET "{column}" = ? WHERE version = 3', str(value) if column == "check" else value)
    contradicted(verify(folder), said, "by the schedule" if column == "learning_rate" else "by the replay")


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("version", [0, 3, STEPS])
def test_a_deleted_row_is_missed(tree: str, version: int, verify: Command, copy: Callable[[str], Path]) -> None:
    """The first and the last too."""
    folder = copy(tree)
    change(folder, "DELETE FROM versions WHERE version = ?", version)
    contradicted(verify(folder), f"version {version}, rows: expected a row")


@pytest.mark.parametrize("place", [-1, -1000, 200])
def test_one_byte_of_the_model_is_found(place: int, verify: Command, copy: Callable[[str], Path]) -> None:
    """In a tensor, or in the names before them."""
    model = copy("2") / "model.safetensors"
    raw = bytearray(model.read_bytes())
    raw[place] ^= 1
    model.write_bytes(raw)
    contradicted(verify(model.parent), "version 6, model.safetensors: expected")


def test_metrics_and_a_summary_that_say_otherwise_are_found(verify: Command, copy: Callable[[str], Path]) -> None:
    """They are read from the folder as it is."""
    file = copy("1") / "metrics.jsonl"
    file.write_text(file.read_text().replace('"skipped":false', '"loss":9.9,"skipped":false', 1))
    contradicted(verify(file.parent), "version 1, loss in metrics.jsonl: expected")
    file = copy("2") / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"digest": "0" * 64}))
    contradicted(verify(file.parent), f"version {STEPS}, digest in summary.json: expected")


def test_a_model_of_a_run_without_an_end_accuses_nobody(verify: Command, copy: Callable[[str], Path]) -> None:
    """The spheres may have gone on after control had written its last row."""
    folder = copy("2")
    change(folder, "DELETE FROM run WHERE key = 'status'")
    change(folder, "DELETE FROM versions WHERE version > 3")
    change(folder, "DELETE FROM events WHERE kind = 'SphereClosed'")
    (folder / "summary.json").unlink()
    result = verify(folder)
    assert result.returncode == 0, result.stderr
    assert "model.safetensors: the ledger has no end" in result.stdout


def test_v0_is_checked_where_it_was_kept(verify: Command, copy: Callable[[str], Path]) -> None:
    """Its weights are version 0's, and what the optimizer keeps beside them is as it was written."""
    folder = copy("2")
    run = load(folder / "config.toml", RunConfig())
    torch.manual_seed(run.training.seed)
    model = GPT(run.model)
    tensors = {f"parameters.{name}": p.detach().clone() for name, p in model.named_parameters()}
    tensors["optimizer.counts"] = torch.zeros(3)
    v0 = folder / "v0.safetensors"
    save_snapshot(Snapshot(tensors), v0)
    assert f"v0.safetensors is version 0, digest {digest_of(model)}" in verify(folder).stdout
    raw = bytearray(v0.read_bytes())
    raw[-1] ^= 1
    v0.write_bytes(raw)
    contradicted(verify(folder), "version 0, v0.safetensors: expected", "sha256 differs")
    tensors["parameters.head.weight"][0, 0] += 1
    save_snapshot(Snapshot(tensors), v0)
    contradicted(verify(folder), "version 0, v0.safetensors: expected", digest_of(model))


def test_an_order_at_another_version_contradicts_the_rows(verify: Command, copy: Callable[[str], Path]) -> None:
    """Later or earlier than the rows obeyed it; and a rate that nobody ordered."""
    folder = copy("rate")
    for version in (2, 4):
        change(folder, "UPDATE orders SET version = ?", version)
        contradicted(verify(folder), "order in force: expected")
    change(folder, "UPDATE orders SET version = 3, wanted = '{\"learning_rate\": 0.02}'")
    contradicted(verify(folder), "version 4, learning rate: expected 0.0")


# ---------------------------------------------------------------- refused, and left out


@pytest.mark.parametrize("field", ["torch", "cpu_capability", "threads"])
def test_another_machine_is_refused_by_the_field_that_differs(
    field: str, verify: Command, copy: Callable[[str], Path]
) -> None:
    """Ledger and files are checked all the same, and a contradiction in them is the verdict."""
    folder = copy("1")
    fingerprint = read_record(folder / "ledger.db").fingerprint | {field: "another"}
    change(folder, "UPDATE run SET value = ? WHERE key = 'fingerprint'", json.dumps(fingerprint))
    result = verify(folder)
    assert result.returncode == 2 and "each counted exactly once" in result.stdout
    assert result.stderr.startswith(f"lightwatch: {field} was 'another' in the run and is ")
    assert result.stderr.endswith("[LW532]\n") and result.stderr.count("\n") == 1
    assert verify(folder, "--sample", "0").returncode == 0
    change_row(folder, 2, samples=7)
    contradicted(verify(folder), "version 2, samples")


def test_a_config_or_data_that_are_not_the_runs_accuse_nobody(verify: Command, copy: Callable[[str], Path]) -> None:
    """What they say is left out, and the replay refused; the same where the config names the data's fingerprint."""
    folder = copy("2")
    named = f'fingerprint = "{read_record(folder / "ledger.db").fingerprint["data"]}"'
    config = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(config.replace("learning_rate = 0.001", "learning_rate = 0.5"))
    result = verify(folder)
    assert result.returncode == 2 and "config.learning_rate was '0.001' in the run and is '0.5' here" in result.stderr
    assert "config.toml is not the one that the run had" in result.stdout
    (folder / "other.txt").write_text("some other text, of which there is more than enough\n" * 40)
    data = next(line for line in config.splitlines() if line.startswith("path"))
    for own in ('fingerprint = ""', named):
        other = config.replace(data, f'path = "{folder}/other.txt"').replace('fingerprint = ""', own)
        (folder / "config.toml").write_text(other)
        result = verify(folder)
        assert result.returncode == 2 and "lightwatch: data was" in result.stderr
        assert "the data are not those that the run had" in result.stdout
    (folder / "other.txt").unlink()
    result = verify(folder)
    assert result.returncode == 2 and "[LW101]" in result.stderr and "the data can't be read" in result.stdout


def test_a_scripts_run_is_audited_without_what_only_the_script_knows(tmp_path: Path, verify: Command) -> None:
    """Its rows and its file are checked; buffers of torch's own layers are known by their names."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = lightwatch("run", "--tree", "1", "--out", "out", "--quiet", "script.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    result = verify(tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert "the replay: model and data are the script's own" in result.stdout
    assert "model.safetensors is version 3" in result.stdout
    change_row(tmp_path / "out", 2, loss=1.0)
    contradicted(verify(tmp_path / "out"), "version 2, loss")


SCRIPT = """
import torch
from lightwatch import Trainer, TrainingConfig

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 2))
data = [(torch.randn(4), torch.tensor(n % 2)) for n in range(24)]
Trainer(model, data, TrainingConfig(max_steps=3, micro_batches=2, batch_size=4)).train()
"""


def test_what_can_not_be_verified_is_a_sentence(runs: Path, tmp_path: Path, verify: Command) -> None:
    refused(verify(tmp_path / "none"), "there is no such folder", "[LW603]")
    refused(verify(runs / "text.txt"), "this is a file", "[LW603]")
    (tmp_path / "config.toml").write_text((runs / "1" / "config.toml").read_text())
    refused(verify(tmp_path), "there is no ledger.db", "[LW531]")
    Ledger.open(tmp_path / "ledger.db", "cafe").close()
    refused(verify(tmp_path), "holds no version", "[LW531]")
    refused(verify(runs / "1", "--steps", "0:7"), "0 <= A <= B <= 6", "got 0:7", "[LW002]")
    refused(verify(runs / "1", "--steps", "4:2"), "got 4:2")
    refused(verify(runs / "1", "--steps", "4"), "--steps: expected A:B", "[LW001]")
    refused(verify(runs / "1", "--sample", "-1"), "--sample must be at least 0", "[LW002]")
    refused(verify(runs / "1", "--sample", "1", "--steps", "0:1"), "not both", "[LW001]")
