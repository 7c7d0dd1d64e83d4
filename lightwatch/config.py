"""Every setting of a run: four frozen sections, each field with its law beside its default.

Whatever exists is valid: a section checks types and ranges when it is made, RunConfig what must fit between sections.
Defaults < PRESET < a TOML file (`load`) < flags (`merge`); environment variables never. Standard library only, so that
the launcher and `--help` stay light.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from .errors import ConfigError
from .law import Section, boolean, number, refuse_unknown, shown, text, whole

FILE_BYTES_MOST = 1 << 20  # a config of more than 1 MiB is another file, named by mistake


@dataclass(frozen=True)
class TrainingConfig(Section):
    """How to train. All of it but the intervals, the folder and eval_batches decides the bits of the weights."""

    learning_rate: float = number(1e-4, least=0.0)
    weight_decay: float = number(0.01, least=0.0)
    max_grad_norm: float | None = number(1.0, least=0.0, none_is=0.0)  # 0 (None is stored as 0): no clipping
    warmup_steps: int = whole(100, least=0)
    max_steps: int = whole(-1, least=1, also=-1)  # -1: no limit
    log_interval: int = whole(10, least=1)
    eval_interval: int = whole(100, least=0)  # 0: only at the end
    save_interval: int = whole(1000, least=0)  # 0: off
    checkpoint_dir: str = text("checkpoints")
    max_checkpoints: int = whole(3, least=0)  # 0: all stay
    micro_batches: int = whole(8, least=1, most=1024)  # above 1024 an int32 sum has fewer than 17 bits for each
    batch_size: int = whole(4, least=1, most=2**20)  # samples in a micro-batch
    seed: int = whole(0, least=0)
    reduction: str = text("exact", "exact", "float")
    verify_interval: int = whole(100, least=0)  # 0: only v0 and the end
    threads: int = whole(1, least=1, most=1024)  # of torch, inside one operation; another number gives other bits
    label_smoothing: float = number(0.0, least=0.0, below=1.0)
    headroom_bits: int = whole(5, least=1, most=12)  # growth of a gradient from step to step without a redo
    eval_batches: int = whole(32, least=1)  # evaluation looks at this many micro-batches at most
    nan_policy: str = text("stop", "stop", "skip")
    device: str = text("cpu", "cpu", "cuda", "auto")  # never derived unless asked: a GPU's bits are others than a CPU's
    autocast: str = text("off", "off", "bf16")  # of forward and loss; weights, sums and updates stay float32


@dataclass(frozen=True)
class GPTConfig(Section):
    """The size of the byte-level GPT. `width` is shared among `heads`, so it must be a multiple of them."""

    layers: int = whole(6, least=1, most=1024)
    heads: int = whole(8, least=1, most=1024)
    width: int = whole(256, least=1, most=2**16)
    context: int = whole(128, least=1, most=2**20)  # positions it can look back, in tokens
    vocabulary: int = whole(256, least=1, most=2**24)
    dropout: float = number(0.0, least=0.0, below=1.0)
    tied: bool = boolean(False)  # the output head uses the embedding's weights

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % self.heads:
            raise ConfigError(
                f"GPTConfig.width must be a multiple of heads, got width {self.width} and heads {self.heads} [LW004]"
            )


@dataclass(frozen=True)
class DataConfig(Section):
    """What to read. An empty path is the standard library's own source, which is on every machine."""

    path: str = text("")
    sequence_length: int = whole(128, least=1, most=2**20)  # bytes in a sample
    fingerprint: str = text("")  # as a sphere proves it: other data are refused, wherever they are; empty: not known

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fingerprint and not re.fullmatch(r"[0-9a-f]{64}", self.fingerprint):
            raise ConfigError(
                f"DataConfig.fingerprint must be a sha256 of 64 hexadecimal digits, or empty, "
                f"got {shown(self.fingerprint)} [LW002]"
            )


@dataclass(frozen=True)
class ControlConfig(Section):
    """How the tree is held together. `tree` is any text here: control's parse_tree judges it."""

    tree: str = text("2x2")
    listen: str = text("tcp://127.0.0.1:*")
    silence_s: float = number(1.0, above=0.0, most=3600.0)
    checkpoint_at: str = text("")  # path of the host whose spheres write checkpoints; empty: the first one's

    def __post_init__(self) -> None:
        super().__post_init__()
        match = re.fullmatch(r"tcp://[^\s/:]+:(\*|[0-9]{1,5})|tcp://\[[0-9A-Fa-f:.%]+\]:(\*|[0-9]{1,5})", self.listen)
        port = (match[1] or match[2]) if match else ""
        if not port or (port != "*" and int(port) > 65535):
            raise ConfigError(
                f"ControlConfig.listen must look like tcp://127.0.0.1:5555 (or :* for a free port), "
                f"got {shown(self.listen)} [LW006]"
            )


@dataclass(frozen=True)
class RunConfig:
    """The complete set: what `config.toml` in the run folder holds."""

    training: TrainingConfig = TrainingConfig()
    model: GPTConfig = GPTConfig()
    data: DataConfig = DataConfig()
    control: ControlConfig = ControlConfig()

    SECTIONS: ClassVar[dict[str, type[Section]]] = {
        "training": TrainingConfig,
        "model": GPTConfig,
        "data": DataConfig,
        "control": ControlConfig,
    }

    def __post_init__(self) -> None:
        for name, section in self.SECTIONS.items():
            if not isinstance(getattr(self, name), section):
                raise ConfigError(
                    f"RunConfig.{name} must be a {section.__name__}, got {shown(getattr(self, name))} [LW002]"
                )
        if self.data.sequence_length > self.model.context:
            raise ConfigError(
                f"data.sequence_length must fit the model's context, got {self.data.sequence_length} "
                f"and model.context {self.model.context}: lower the one or raise the other [LW004]"
            )
        if self.model.vocabulary < 256:
            raise ConfigError(
                f"model.vocabulary must be >= 256, for the data are bytes, got {self.model.vocabulary} [LW004]"
            )


# `lightwatch train` starts from here: 3.8 M parameters, some two minutes on two cores.
PRESET = RunConfig(
    training=TrainingConfig(learning_rate=1e-3, warmup_steps=20, micro_batches=8, batch_size=2, max_steps=180, seed=1),
    model=GPTConfig(heads=7, width=224),
)


def load(path: Path, base: RunConfig) -> RunConfig:
    """Read a TOML file over `base`: TrainingConfig's fields at the top, tables [model], [data], [control].

    Raises ConfigError, its sentence beginning with the file's name, for a file that can't be read or parsed, an unknown
    key or table, a wrong type or range.
    """
    found = _parsed(path)
    tables: dict[str, Mapping[str, object]] = {"training": {}}
    top: dict[str, object] = {}
    for name, value in found.items():
        if name != "training" and name in RunConfig.SECTIONS:
            if not isinstance(value, Mapping):
                raise ConfigError(f"{path}: [{name}] must be a table, got {shown(value)} [LW002]")
            tables[name] = value
        else:
            top[name] = value
    tables["training"] = top
    try:
        for name, table in tables.items():
            _refuse_misplaced(name, table)
        return merge(base, **tables)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def merge(
    run: RunConfig,
    *,
    training: Mapping[str, object] | None = None,
    model: Mapping[str, object] | None = None,
    data: Mapping[str, object] | None = None,
    control: Mapping[str, object] | None = None,
) -> RunConfig:
    """Return `run` with the given values in the place of its own, checked as a whole at the end. Raises ConfigError."""
    wishes = {"training": training, "model": model, "data": data, "control": control}
    # Any: replace() is typed by the fields it is given, which are only known at run time.
    made: dict[str, Any] = {
        name: dataclasses.replace(getattr(run, name), **dict(wish)) for name, wish in wishes.items() if wish
    }
    return dataclasses.replace(run, **made)


def dumps(run: RunConfig, tables: Sequence[str] = ("model", "data", "control")) -> str:
    """Write the complete set as TOML. `load` of it, over any base, gives the same RunConfig.

    tables: fewer for a script, which brings a model and data of its own.
    """
    lines = [_line(name, getattr(run.training, name)) for name in TrainingConfig.names()]
    for table in tables:
        section: Section = getattr(run, table)
        lines += ["", f"[{table}]", *(_line(name, getattr(section, name)) for name in section.names())]
    return "\n".join(lines) + "\n"


def _line(name: str, value: object) -> str:
    # JSON's strings are TOML's but for DEL; numbers and true/false are the same as long as they are finite.
    written = json.dumps(value, ensure_ascii=False, allow_nan=False).replace("\x7f", "\\u007f")
    return f"{name} = {written}"


def _parsed(path: Path) -> dict[str, Any]:
    """The file's TOML. A pipe or a device is refused unread: it could block for ever."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise ConfigError(f"{path}: a config must be a file, this is a folder or a device [LW005]")
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MOST + 1)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ConfigError(f"{path}: the config can't be read: {reason} [LW005]") from None
    if len(raw) > FILE_BYTES_MOST:
        raise ConfigError(
            f"{path}: a config is at most {FILE_BYTES_MOST} bytes, this is larger: is it another file? [LW005]"
        )
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bad TOML, bad UTF-8, a number of 5,000 digits
        raise ConfigError(f"{path}: this is not TOML: {error} [LW005]") from None


def _refuse_misplaced(table: str, values: Iterable[str]) -> None:
    """Say where a known field belongs if it stands in the wrong table: the nearest name here would mislead."""
    for name in values:
        if name in RunConfig.SECTIONS[table].names():
            continue
        for home, section in RunConfig.SECTIONS.items():
            if name in section.names():
                place = "at the top, before any table" if home == "training" else f"in the table [{home}]"
                raise ConfigError(f"{name!r} belongs {place} [LW003]")
    known = RunConfig.SECTIONS[table].names()
    if table == "training":
        known += ("model", "data", "control")
    refuse_unknown("the top level" if table == "training" else f"[{table}]", values, known)
