"""A configuration that exists is valid, and one that can't be says so in a sentence with field, expected and got."""

from __future__ import annotations

import copy
import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightwatch.config import (
    PRESET,
    ControlConfig,
    DataConfig,
    GPTConfig,
    RunConfig,
    TrainingConfig,
    dumps,
    load,
    merge,
)
from lightwatch.errors import ConfigError, LightwatchError, RunEnded

ROOT = Path(__file__).parents[1]
SECTIONS = (TrainingConfig, GPTConfig, DataConfig, ControlConfig)

DEFAULTS: dict[type, dict[str, object]] = {
    TrainingConfig: {
        "learning_rate": 1e-4,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "warmup_steps": 100,
        "max_steps": -1,
        "log_interval": 10,
        "eval_interval": 100,
        "save_interval": 1000,
        "checkpoint_dir": "checkpoints",
        "max_checkpoints": 3,
        "micro_batches": 8,
        "batch_size": 4,
        "seed": 0,
        "reduction": "exact",
        "verify_interval": 100,
        "threads": 1,
        "label_smoothing": 0.0,
        "headroom_bits": 5,
        "eval_batches": 32,
        "nan_policy": "stop",
        "device": "cpu",
        "autocast": "off",
    },
    GPTConfig: {
        "layers": 6,
        "heads": 8,
        "width": 256,
        "context": 128,
        "vocabulary": 256,
        "dropout": 0.0,
        "tied": False,
    },
    DataConfig: {"path": "", "sequence_length": 128, "fingerprint": ""},
    ControlConfig: {"tree": "2x2", "listen": "tcp://127.0.0.1:*", "silence_s": 1.0, "checkpoint_at": ""},
}


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("section", SECTIONS)
def test_the_defaults_are_those_of_the_documentation(section: type) -> None:
    """A default is a promise: each is written down here a second time."""
    assert dataclasses.asdict(section()) == DEFAULTS[section]
    assert [type(value) for value in dataclasses.asdict(section()).values()] == [
        type(value) for value in DEFAULTS[section].values()
    ]


def test_no_clipping_is_zero_or_none_and_stored_as_zero() -> None:
    """TOML knows no None, so the two ways to say it are one setting."""
    assert TrainingConfig(max_grad_norm=None) == TrainingConfig(max_grad_norm=0)
    assert TrainingConfig(max_grad_norm=None).max_grad_norm == 0.0


def test_a_config_can_not_be_changed_but_copied() -> None:
    """Frozen; copies, pickles and replace() give equal ones, and replace() is checked like the constructor."""
    config = TrainingConfig(seed=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 4  # type: ignore[misc]
    assert copy.deepcopy(PRESET) == PRESET
    assert pickle.loads(pickle.dumps(PRESET)) == PRESET
    assert hash(PRESET) == hash(copy.deepcopy(PRESET))
    assert dataclasses.replace(config, seed=5).seed == 5
    with pytest.raises(ConfigError):
        dataclasses.replace(config, seed=-5)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """The same answer from the constructor, from_dict, merge and replace()."""
    for make in (
        lambda: TrainingConfig(learning_rat=1.0),  # type: ignore[call-arg]
        lambda: TrainingConfig.from_dict({"Learning_Rate": 1.0}),
        lambda: merge(RunConfig(), training={"learningrate": 1.0}),
        lambda: dataclasses.replace(TrainingConfig(), lerning_rate=1.0),  # type: ignore[call-arg]
    ):
        with pytest.raises(ConfigError, match="nearest known is 'learning_rate'"):
            make()
    with pytest.raises(ConfigError, match="GPTConfig has no 'depth'"):
        GPTConfig.from_dict({"depth": 3})


def test_from_dict_fills_what_is_missing_and_needs_a_mapping() -> None:
    """The rest has its defaults."""
    assert TrainingConfig.from_dict({"seed": 9}) == TrainingConfig(seed=9)
    assert TrainingConfig.from_dict({}) == TrainingConfig()
    with pytest.raises(ConfigError, match="needs a table"):
        TrainingConfig.from_dict([("seed", 9)])  # type: ignore[arg-type]


def test_what_does_not_fit_between_sections_is_refused() -> None:
    """A sequence fits the context, the heads share the width, bytes need 256 tokens, a section is of its kind."""
    with pytest.raises(ConfigError, match="context"):
        RunConfig(data=DataConfig(sequence_length=129))
    RunConfig(data=DataConfig(sequence_length=129), model=GPTConfig(context=129))
    with pytest.raises(ConfigError, match=r"vocabulary must be >= 256.*255"):
        RunConfig(model=GPTConfig(vocabulary=255))
    with pytest.raises(ConfigError, match="width 250 and heads 8"):
        GPTConfig(width=250)
    with pytest.raises(ConfigError, match=r"RunConfig\.training must be a TrainingConfig"):
        RunConfig(training={"seed": 1})  # type: ignore[arg-type]


def test_the_preset_is_the_main_job() -> None:
    """What `lightwatch train` promises: its learning rate, warm-up, micro-batches, and a number of steps."""
    training = PRESET.training
    assert (training.learning_rate, training.warmup_steps, training.micro_batches) == (1e-3, 20, 8)
    assert training.max_steps >= 1 and PRESET.control.tree == "2x2" and PRESET.data.path == ""
    assert TrainingConfig() != training


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBERS = st.floats(min_value=0, max_value=1e300)
COUNTS = st.integers(min_value=1, max_value=1000)
RUNS = st.builds(
    RunConfig,
    training=st.builds(
        TrainingConfig,
        learning_rate=NUMBERS,
        weight_decay=NUMBERS,
        max_grad_norm=st.none() | NUMBERS,
        warmup_steps=st.integers(0, 2**63 - 1),
        max_steps=st.just(-1) | COUNTS,
        log_interval=COUNTS,
        eval_interval=st.just(0) | COUNTS,
        save_interval=st.just(0) | COUNTS,
        checkpoint_dir=TEXTS,
        max_checkpoints=st.just(0) | COUNTS,
        micro_batches=COUNTS,
        batch_size=COUNTS,
        seed=st.integers(0, 2**63 - 1),
        reduction=st.sampled_from(["exact", "float"]),
        verify_interval=COUNTS,
        threads=COUNTS,
        label_smoothing=st.floats(0, 0.99),
        headroom_bits=st.integers(1, 12),
        eval_batches=COUNTS,
        device=st.sampled_from(["cpu", "cuda", "auto"]),
        autocast=st.sampled_from(["off", "bf16"]),
    ),
    model=st.builds(
        GPTConfig,
        layers=COUNTS,
        heads=st.sampled_from([1, 2, 4]),
        width=COUNTS.map(lambda n: 4 * n),
        context=st.integers(1000, 2000),
        vocabulary=st.integers(256, 1000),
        dropout=st.floats(0, 0.99),
        tied=st.booleans(),
    ),
    data=st.builds(DataConfig, path=TEXTS, sequence_length=COUNTS),
    control=st.builds(
        ControlConfig,
        tree=TEXTS,
        listen=st.sampled_from(["tcp://127.0.0.1:*", "tcp://[::1]:80"]),
        silence_s=st.floats(0.001, 3600),
    ),
)


@settings(max_examples=100, deadline=None)
@given(run=RUNS)
def test_what_is_written_is_read_back_as_the_same(run: RunConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`load(dumps(run))` is `run`, over any base: the file is the complete set."""
    path = written(tmp_path_factory.getbasetemp() / "config.toml", dumps(run))
    assert load(path, RunConfig()) == run
    assert load(path, PRESET) == run


def test_the_written_set_names_every_field() -> None:
    """No default hides in the program: the file says all there is."""
    lines = dumps(PRESET).splitlines()
    names = [line.split(" = ")[0] for line in lines if " = " in line]
    assert names == [field.name for section in SECTIONS for field in dataclasses.fields(section)]
    assert [line for line in lines if line.startswith("[")] == ["[model]", "[data]", "[control]"]
    assert "seed = 1" in lines and "tied = false" in lines and 'reduction = "exact"' in lines


def test_a_file_changes_what_it_names_and_flags_change_the_file(tmp_path: Path) -> None:
    """Defaults < preset < file < flags; what nobody names stays."""
    path = written(tmp_path / "c.toml", "seed = 5\nlearning_rate = 1\n[model]\nlayers = 2\n[data]\n")
    run = load(path, PRESET)
    assert (run.training.seed, run.training.learning_rate, run.model.layers) == (5, 1.0, 2)
    assert run == merge(PRESET, training={"seed": 5, "learning_rate": 1}, model={"layers": 2})
    assert run.training.warmup_steps == PRESET.training.warmup_steps
    run = merge(run, training={"seed": 6}, control={"tree": "4"}, data={"path": "x"}, model={"heads": 4})
    assert (run.training.seed, run.control.tree, run.data.path, run.model.heads) == (6, "4", "x", 4)
    assert run.training.learning_rate == 1.0 and run.model.layers == 2
    assert merge(PRESET) == PRESET and load(written(tmp_path / "e.toml", ""), PRESET) == PRESET


def test_sections_are_judged_together_not_one_after_the_other(tmp_path: Path) -> None:
    """A longer sequence and a longer context in one file fit, whichever comes first."""
    path = written(tmp_path / "c.toml", "[data]\nsequence_length = 256\n[model]\ncontext = 256\n")
    assert load(path, RunConfig()).data.sequence_length == 256
    with pytest.raises(ConfigError, match=r"c\.toml: data\.sequence_length"):
        load(written(path, "[data]\nsequence_length = 256\n"), RunConfig())


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("lerning_rate = 1.0", "the top level has no 'lerning_rate'; the nearest known is 'learning_rate'"),
        ("[modle]\nlayers = 2", "the top level has no 'modle'; the nearest known is 'model'"),
        ("[training]\nseed = 2", "the top level has no 'training'"),
        ("[model]\nlayer = 2", "[model] has no 'layer'; the nearest known is 'layers'"),
        ("[data]\npaht = ''", "[data] has no 'paht'; the nearest known is 'path'"),
        ("[control]\nsilence = 2", "[control] has no 'silence'; the nearest known is 'silence_s'"),
        ("layers = 2", "'layers' belongs in the table [model]"),
        ("[model]\nseed = 2", "'seed' belongs at the top, before any table"),
        ("[data]\ntree = '2'", "'tree' belongs in the table [control]"),
        ("model = 3", "[model] must be a table, got 3"),
        ("[[data]]\npath = 'x'", "[data] must be a table"),
        ("seed = '1'", "TrainingConfig.seed must be a whole number >= 0, got '1' (str)"),
        ("learning_rate = nan", "TrainingConfig.learning_rate must be a finite number >= 0, got nan"),
        ("seed = 1\nseed = 2", "this is not TOML"),
        ("seed = ", "this is not TOML"),
        ("seed = " + "1" * 5000, "this is not TOML"),
        ("seed = " + "[" * 5000, "this is not TOML"),
        (b"checkpoint_dir = '\xff'", "this is not TOML"),
        (b"\0", "this is not TOML"),
        (b"#" * 2_000_000, "at most 1048576 bytes"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_its_name(tmp_path: Path, text: str | bytes, sentence: str) -> None:
    """The sentence begins with the file and says what is wrong in it."""
    path = written(tmp_path / "c.toml", text)
    with pytest.raises(ConfigError) as caught:
        load(path, PRESET)
    assert str(caught.value).startswith(f"{path}: ") and sentence in str(caught.value)


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    """Missing, a folder, a pipe (which would block for ever), a name with NUL."""
    os.mkfifo(tmp_path / "pipe")
    for path, words in [
        (tmp_path / "missing.toml", "No such file"),
        (tmp_path, "a folder or a device"),
        (tmp_path / "pipe", "a folder or a device"),
        (Path("a\0b"), "can't be read"),
    ]:
        with pytest.raises(ConfigError, match=words):
            load(path, PRESET)


def test_the_errors_say_whose_fault_it_is() -> None:
    """One root; the user's mistakes are ValueErrors; the end of a run carries its status and reason."""
    assert issubclass(ConfigError, LightwatchError) and issubclass(ConfigError, ValueError)
    end = RunEnded("failed", "sphere 0/1 was lost [LW406]")
    assert (end.status, end.reason, end.code) == ("failed", "sphere 0/1 was lost [LW406]", "LW406")
    assert str(end) == "the run has ended (failed): sphere 0/1 was lost [LW406]"
    assert str(RunEnded("stopped")) == "the run has ended (stopped)" and RunEnded("stopped").code == ""
    assert pickle.loads(pickle.dumps(end)).reason == end.reason


@pytest.mark.parametrize("module", ["lightwatch.config", "lightwatch.corpus", "lightwatch.errors"])
def test_it_needs_the_standard_library_alone(module: str) -> None:
    """The launcher and --help must not wait for torch: in a fresh process nothing foreign is loaded."""
    heavy = ("torch", "numpy", "zmq", "msgspec", "rich", "tyro", "safetensors", "psutil")
    program = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr
