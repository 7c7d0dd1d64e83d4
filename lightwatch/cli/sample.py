"""`lightwatch sample`: a trained model goes on from a prompt. The only command of people's that loads torch here."""

from __future__ import annotations

import argparse

from ..config import RunConfig, load
from ..errors import ConfigError
from .elsewhere import elsewhere
from .folder import existing_run
from .terminal import Terminal

LENGTH_MOST = 1 << 20


def sample(arguments: argparse.Namespace) -> int:
    """Write prompt and continuation to stdout. Raises ConfigError, DataError."""
    folder = existing_run(arguments.dir)
    if not folder.model.is_file():
        why = elsewhere(folder) or "a run writes it when it ends"
        raise ConfigError(f"{arguments.dir}: there is no model.safetensors; {why} [LW209]")
    if not 1 <= arguments.length <= LENGTH_MOST:
        raise ConfigError(f"--length must be 1 to {LENGTH_MOST}, got {arguments.length} [LW002]")
    if not 0 <= arguments.seed < 2**63:
        raise ConfigError(f"--seed must be 0 to 2^63 - 1, got {arguments.seed} [LW002]")
    config = load(folder.config, RunConfig())
    prompt = arguments.prompt.encode("utf-8", "surrogateescape")
    from ..arithmetic import settle_arithmetic
    from ..checkpoint import load_model
    from ..model import GPT, generate

    settle_arithmetic(config.training.threads)  # as in training: more threads than free cores only wait for each other
    model = GPT(config.model)
    load_model(model, folder.model)
    written = generate(model, prompt, arguments.length, seed=arguments.seed)
    Terminal().tell((prompt + written).decode(errors="replace"))
    return 0
