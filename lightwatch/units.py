"""What a step consists of: its units of work, numbered. Training micro-batches first, then those of an evaluation.

A function of the config, the data's length and the version alone, so that every sphere counts the same ones.
"""

from __future__ import annotations

from .config import TrainingConfig
from .data import Batch, Batches


class Units:
    """The units of each step of a training. given: a batch of the user's own, in the place of the numbered ones."""

    def __init__(self, config: TrainingConfig, data: Batches, eval_data: Batches | None) -> None:
        self._config = config
        self.data = data
        self.eval_data = eval_data
        self.given: Batch | None = None

    @property
    def training(self) -> int:
        """Training micro-batches of a step."""
        return 1 if self.given else self._config.micro_batches

    @property
    def closing(self) -> int:
        """Evaluation micro-batches after the last step."""
        return min(self._config.eval_batches, self.eval_data.evaluations) if self.eval_data else 0

    def evaluation(self, version: int) -> int:
        """Evaluation micro-batches in the step that starts from `version`: they are of that version's weights."""
        every = self._config.eval_interval
        return self.closing if every and version and version % every == 0 else 0

    def batch(self, version: int, unit: int) -> Batch:
        """The training micro-batch `unit` of the step that starts from `version`."""
        return self.given or self.data.batch(version, unit)

    def evaluation_batch(self, number: int) -> Batch:
        """The evaluation micro-batch with this number, the same at every version."""
        assert self.eval_data is not None, "there are no such units without evaluation data"
        return self.eval_data.evaluation(number)
