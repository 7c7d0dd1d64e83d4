"""Each setting's own law: what a field takes, what it refuses, and the sentence that says so."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lightwatch.config import ControlConfig, DataConfig, GPTConfig, RunConfig, TrainingConfig
from lightwatch.errors import ConfigError

SECTIONS = (TrainingConfig, GPTConfig, DataConfig, ControlConfig)

NAN, INF = float("nan"), float("inf")
NO_NUMBER: list[object] = ["1", True, NAN, INF, -INF, [1.0], 10**400]
NO_INTEGER: list[object] = ["1", True, 1.0, NAN, None, 2**63, 10**5000]
NO_TEXT: list[object] = [1, None, True, b"text", "a\0b", "not UTF-8 \udcff"]

# For each field: what it takes, and what it must refuse besides the values of a wrong type.
FIELDS: list[tuple[type, str, list[object], list[object]]] = [
    (TrainingConfig, "learning_rate", [0.0, 1e30, 1, 3e-4], [-1e-9, None, *NO_NUMBER]),
    (TrainingConfig, "weight_decay", [0.0, 10.0, 1], [-0.1, None, *NO_NUMBER]),
    (TrainingConfig, "max_grad_norm", [0.0, 0.5, 7], [-1.0, *NO_NUMBER]),
    (TrainingConfig, "warmup_steps", [0, 10**12], [-1, *NO_INTEGER]),
    (TrainingConfig, "max_steps", [-1, 1, 10**12], [0, -2, *NO_INTEGER]),
    (TrainingConfig, "log_interval", [1, 10**12], [0, -1, *NO_INTEGER]),
    (TrainingConfig, "eval_interval", [0, 1], [-1, *NO_INTEGER]),
    (TrainingConfig, "save_interval", [0, 1], [-1, *NO_INTEGER]),
    (TrainingConfig, "checkpoint_dir", ["x/ü y"], NO_TEXT),
    (TrainingConfig, "max_checkpoints", [0, 1], [-1, *NO_INTEGER]),
    (TrainingConfig, "micro_batches", [1, 7, 1024], [0, -3, 1025, *NO_INTEGER]),
    (TrainingConfig, "batch_size", [1, 1000], [0, 2**20 + 1, *NO_INTEGER]),
    (TrainingConfig, "seed", [0, 2**63 - 1], [-1, *NO_INTEGER]),
    (TrainingConfig, "reduction", ["exact", "float"], ["Exact", "", "sum", *NO_TEXT]),
    (TrainingConfig, "device", ["cpu", "cuda", "auto"], ["CPU", "", "cuda:0", *NO_TEXT]),
    (TrainingConfig, "autocast", ["off", "bf16"], ["on", "", "fp16", *NO_TEXT]),
    (TrainingConfig, "verify_interval", [0, 1], [-1, *NO_INTEGER]),
    (TrainingConfig, "threads", [1, 64], [0, 1025, *NO_INTEGER]),
    (TrainingConfig, "label_smoothing", [0, 0.1, 0.999], [-0.1, 1.0, None, *NO_NUMBER]),
    (TrainingConfig, "headroom_bits", [1, 12], [0, 13, *NO_INTEGER]),
    (TrainingConfig, "eval_batches", [1, 10**6], [0, *NO_INTEGER]),
    (TrainingConfig, "nan_policy", ["stop", "skip"], ["go on", "", *NO_TEXT]),
    (GPTConfig, "layers", [1, 12], [0, 1025, *NO_INTEGER]),
    (GPTConfig, "heads", [1, 2, 256], [0, 3, 257, *NO_INTEGER]),
    (GPTConfig, "width", [8, 512], [0, 4, 100, 2**16 + 8, *NO_INTEGER]),
    (GPTConfig, "context", [1, 4096], [0, 2**20 + 1, *NO_INTEGER]),
    (GPTConfig, "vocabulary", [1, 50257], [0, 2**24 + 1, *NO_INTEGER]),
    (GPTConfig, "dropout", [0, 0.5], [-0.1, 1.0, None, *NO_NUMBER]),
    (GPTConfig, "tied", [True, False], [1, 0, "true", None, 1.0]),
    (DataConfig, "path", ["", "/a b/c*", "ü"], NO_TEXT),
    (DataConfig, "sequence_length", [1, 1024], [0, 2**20 + 1, *NO_INTEGER]),
    (DataConfig, "fingerprint", ["", "0a" * 32], ["0a", "0A" * 32, "0a" * 33, "0a" * 32 + "\n", *NO_TEXT]),
    (ControlConfig, "tree", ["", "2x2", "a/b:2,c:1", "2xx"], NO_TEXT),
    (
        ControlConfig,
        "listen",
        ["tcp://127.0.0.1:*", "tcp://127.0.0.1:5555", "tcp://[::1]:0", "tcp://*:65535", "tcp://host.name:1"],
        [
            "",
            "127.0.0.1:5555",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:65536",
            "tcp://:5",
            "ipc://x:1",
            "tcp://a:١",
            *NO_TEXT,
        ],
    ),
    (ControlConfig, "silence_s", [0.1, 5, 3600], [0, 0.0, -1.0, 3601, None, *NO_NUMBER]),
    (ControlConfig, "checkpoint_at", ["", "eu/a", "0"], NO_TEXT),
]


def test_each_field_is_in_the_table_of_this_test_and_there_are_at_most_forty() -> None:
    """A new field needs a test of what it takes and refuses, and room under the ceiling."""
    known = [(section, field.name) for section in SECTIONS for field in dataclasses.fields(section)]
    assert sorted((section.__name__, name) for section, name, _, _ in FIELDS) == sorted(
        (section.__name__, name) for section, name in known
    )
    assert {field.name for field in dataclasses.fields(RunConfig)} == {"training", "model", "data", "control"}
    assert len(known) <= 40


@pytest.mark.parametrize(("section", "name", "good", "bad"), FIELDS)
def test_a_field_takes_what_is_in_range_and_refuses_the_rest(
    section: Any, name: str, good: list[object], bad: list[object]
) -> None:
    """What is in range is kept; a wrong type or range is refused by a sentence that names the field and the value."""
    for value in good:
        assert getattr(section(**{name: value}), name) == value
    for value in bad:
        with pytest.raises(ConfigError) as caught:
            section(**{name: value})
        sentence = str(caught.value)
        assert f"{section.__name__}." in sentence and name in sentence and "got " in sentence, sentence
        assert "\n" not in sentence and "\0" not in sentence and len(sentence) < 300
        sentence.encode()


def test_the_sentence_names_field_expected_and_got() -> None:
    """The whole sentence, once for each kind of law."""
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: TrainingConfig(seed=-1), "TrainingConfig.seed must be a whole number >= 0, got -1"),
        (
            lambda: TrainingConfig(max_steps=0),
            "TrainingConfig.max_steps must be a whole number >= 1, or -1, got 0",
        ),
        (
            lambda: TrainingConfig(label_smoothing=1.0),
            "TrainingConfig.label_smoothing must be a finite number >= 0 and < 1, got 1.0",
        ),
        (
            lambda: TrainingConfig(reduction="both"),
            'TrainingConfig.reduction must be "exact" or "float", got \'both\' (str)',
        ),
        (
            lambda: TrainingConfig(threads=True),
            "TrainingConfig.threads must be a whole number >= 1 and <= 1024, got True (bool)",
        ),
        (lambda: GPTConfig(tied=1), "GPTConfig.tied must be true or false, got 1"),  # type: ignore[arg-type]
    ]
    for make, sentence in cases:
        with pytest.raises(ConfigError) as caught:
            make()
        assert str(caught.value) == f"{sentence} [LW002]"


def test_a_long_or_strange_value_is_shown_short_and_on_one_line() -> None:
    """A sentence stays a sentence whatever was given."""
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(reduction="x\n" * 1000)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


def test_numbers_are_stored_in_one_form() -> None:
    """An int where a float is due becomes that float, a path its text: equal settings have equal files."""
    config = TrainingConfig(learning_rate=1, checkpoint_dir=Path("a") / "b")  # type: ignore[arg-type]
    assert type(config.learning_rate) is float and type(config.checkpoint_dir) is str
    assert config.checkpoint_dir == os.path.join("a", "b")
