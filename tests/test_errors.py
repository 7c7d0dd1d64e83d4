"""Sentences and their codes: read off, kept at the end, carried over every border."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest

from control.errors import BindError, ControlError, NoAnswer
from lightwatch.config import PRESET, TrainingConfig, load
from lightwatch.errors import ConfigError, LightwatchError, RunEnded, code_of, coded, codes_in, told


def test_an_error_in_python_has_its_code() -> None:
    """As an attribute, and at the end of what is printed; a file's name before it changes nothing."""
    with pytest.raises(ConfigError) as caught:
        TrainingConfig(micro_batches=0)
    assert caught.value.code == "LW002" and str(caught.value).endswith("got 0 [LW002]")
    assert ControlError("no [LW501]").code == "LW501" and ControlError("no").code == ""


def test_a_wrapped_sentence_keeps_its_one_code(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("batch_size = 0\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "c.toml", PRESET)
    assert caught.value.code == "LW002" and codes_in(str(caught.value)) == ["LW002"]
    assert str(caught.value).count("LW002") == 1


def test_codes_are_read_off_a_sentence() -> None:
    """All of them in order, each once; the sentence's own is the one at its very end."""
    text = "stop: the run is over (failed: sphere 0 was lost [LW406]) [LW511]"
    assert codes_in(text) == ["LW406", "LW511"] and code_of(text) == "LW511"
    assert codes_in(f"{text}; {text}") == ["LW406", "LW511"]
    for none in ("", "LW406", "[LW40]", "[LW4066]", "[lw406]"):
        assert codes_in(none) == [] and code_of(none) == ""
    assert code_of("a [LW406] b") == "" and code_of("a [LW406]\n") == ""


def test_a_sentence_that_ends_with_a_code_gets_no_second_one() -> None:
    assert coded("a", "LW001") == "a [LW001]"
    assert coded("a [LW002]", "LW001") == "a [LW002]"
    assert coded("a [LW002] b", "LW001") == "a [LW002] b [LW001]"


@pytest.mark.parametrize(
    "error",
    [ConfigError("a [LW002]"), NoAnswer("b [LW501]"), BindError("c [LW504]"), RunEnded("failed", "d [LW406]")],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_after_a_copy_and_a_pickle(error: LightwatchError) -> None:
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (type(twin), str(twin), twin.code) == (type(error), str(error), error.code) and twin.code


def mine() -> BaseException:
    """An error of a user's code: with a place that is neither ours nor Python's."""
    try:
        raise KeyError("mine")
    except KeyError as error:
        return error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a [LW003]"), "LW003"),
        (LightwatchError("without"), "LW901"),
        (OSError(28, "No space left on device", "model"), "LW601"),
        (PermissionError(13, "Permission denied", "model"), "LW604"),
        (MemoryError(), "LW703"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "LW703"),
        (RuntimeError("of nobody's line"), "LW901"),
        (mine(), "LW801"),
    ],
)
def test_any_error_is_told_with_a_code(error: BaseException, code: str) -> None:
    """Whose fault it is: ours says so itself, then disk, file, memory, the user's line, and what is left is ours."""
    assert code_of(told(error)) == code and codes_in(told(error)) == [code]
