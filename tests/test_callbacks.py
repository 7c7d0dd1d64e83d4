"""What is told about training: callbacks, reports, the log."""

from __future__ import annotations

import logging
import re

import pytest
import torch

from lightwatch.metrics import Closing, StepReport, Stopwatch, TrainingState
from lightwatch.sync import Alone
from lightwatch.trainer import Trainer
from tests.models import byte_pairs, gpt_trainer, small_trainer

LINE = re.compile(r"step (\d+)  loss (\S+)  lr (\S+)  grad norm (\S+)")


def test_on_step_end_is_called_once_a_version_with_its_state() -> None:
    """The version stands when it is called, and what it is given is what `state()` says."""
    trainer = small_trainer()
    seen: list[TrainingState] = []

    def callback(state: TrainingState) -> None:
        assert state == trainer.state() and trainer.version == state.step
        seen.append(state)

    trainer.on_step_end = callback
    trainer.train()
    assert [state.step for state in seen] == [1, 2, 3, 4, 5, 6]
    assert len({state.loss for state in seen}) == 6 and all(state.grad_norm for state in seen)


@pytest.mark.parametrize(("count", "ends"), [(40, [5, 10]), (33, [5, 10]), (8, list(range(1, 13))), (41, [6, 12])])
def test_on_epoch_end_is_called_with_the_epochs_last_step(count: int, ends: list[int]) -> None:
    """After on_step_end of the same step, with the same state; an epoch cut off by max_steps doesn't end."""
    trainer = small_trainer(data=byte_free(count), max_steps=12)
    events: list[tuple[str, TrainingState]] = []
    trainer.on_step_end = lambda state: events.append(("step", state))
    trainer.on_epoch_end = lambda state: events.append(("epoch", state))
    trainer.train()
    assert [state.step for kind, state in events if kind == "epoch"] == ends
    for place, (kind, state) in enumerate(events):
        if kind == "epoch":
            assert events[place - 1] == ("step", state)
    steps_per_epoch = trainer.data.steps_per_epoch
    assert [state.epoch for kind, state in events if kind == "epoch"] == [end // steps_per_epoch - 1 for end in ends]


def byte_free(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(count)
    return [(torch.randn(6, generator=generator), torch.randn(3, generator=generator)) for _ in range(count)]


def test_callbacks_move_no_bit() -> None:
    """Also one that draws random numbers, evaluates the model and leaves it in eval mode (dropout is on)."""

    def meddle(trainer: Trainer) -> None:
        torch.rand(3)
        trainer.model.eval()
        with torch.no_grad():
            trainer.model(torch.zeros(1, 4, dtype=torch.long))

    digests = set()
    for callback in (None, meddle):
        trainer = gpt_trainer(Alone(), max_steps=3)
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.2
        if callback:
            trainer.on_step_end = lambda state, trainer=trainer: meddle(trainer)
        trainer.train()
        digests.add(trainer.digest())
    assert len(digests) == 1


@pytest.mark.parametrize("interval", [1, 2, 4, 7])
def test_the_log_has_a_line_every_interval_with_the_steps_numbers(
    interval: int, caplog: pytest.LogCaptureFixture
) -> None:
    """loss, lr and grad norm as the state has them; silent before the first interval is over."""
    trainer = small_trainer(log_interval=interval)
    states: dict[int, TrainingState] = {}
    trainer.on_step_end = lambda state: states.update({state.step: state})
    with caplog.at_level(logging.INFO, logger="lightwatch"):
        trainer.train()
    lines = [LINE.fullmatch(record.message) for record in caplog.records if record.name == "lightwatch"]
    found = {int(line[1]): [float(line[i]) for i in (2, 3, 4)] for line in lines if line}
    assert list(found) == list(range(interval, 7, interval)) and len(found) == len(lines)
    for step, numbers in found.items():
        state = states[step]
        assert numbers == pytest.approx([state.loss, state.lr, state.grad_norm], rel=6e-3, abs=1e-4)


def test_a_step_without_loss_is_not_logged_and_only_the_first_sphere_logs(caplog: pytest.LogCaptureFixture) -> None:
    class Second(Alone):
        first = False

    pairs = byte_pairs(8)
    for _, targets in pairs:
        targets[:] = -100
    empty = Trainer(gpt_trainer(Alone()).model, pairs, gpt_trainer(Alone(), log_interval=1, max_steps=2).config)
    with caplog.at_level(logging.INFO, logger="lightwatch"):
        small_trainer(Second(), log_interval=1).train()
        empty.train()
    assert empty.version == 2 and not [record for record in caplog.records if record.name == "lightwatch"]


def test_every_version_is_reported_with_the_numbers_that_made_it() -> None:
    """v0 by its digest, then each update: what the state says, how many targets, what order held."""
    reports: list[StepReport] = []
    trainer = gpt_trainer(Alone(reports.append), verify_interval=2)
    states: list[TrainingState] = []
    trainer.on_step_end = states.append
    first = trainer.digest()
    trainer.train()
    assert [report.version for report in reports] == [0, 1, 2, 3, 4, 5]
    assert reports[0].digest == first and reports[0].loss is None
    assert [report.digest is not None for report in reports] == [True, False, True, False, True, True]
    assert reports[-1].digest == trainer.digest()
    for report, state in zip(reports[1:], states, strict=True):
        assert (report.loss, report.learning_rate, report.grad_norm) == (state.loss, state.lr, state.grad_norm)
        assert (report.weight, report.samples, report.skipped, report.suspect) == (160, 10, False, None)
        assert report.check is not None and report.epoch == state.epoch and report.in_force == 0
        assert report.seconds["step"] >= sum(v for k, v in report.seconds.items() if k != "step") > 0
    assert [report.attempts for report in reports[1:]] == [3, 1, 1, 1, 1]
    assert [report.eval_loss is not None for report in reports] == [False, False, False, True, False, True]


def test_a_repeated_step_is_counted_once() -> None:
    """Up a spike and down again: targets and samples are those of one attempt; the loss is one mean."""
    reports: list[StepReport] = []

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.mse_loss(outputs, targets) * (2.0**30 if trainer.version == 3 else 1.0)

    trainer = small_trainer(Alone(reports.append), loss_fn=loss)
    trainer.train()
    assert [report.attempts > 1 for report in reports[1:]] == [True, False, False, True, True, False]
    assert {(report.weight, report.samples) for report in reports[1:]} == {(8, 8)}
    assert reports[4].loss is not None and reports[3].loss is not None
    assert reports[4].loss / 2**30 == pytest.approx(reports[3].loss, rel=0.9)


def test_the_closing_names_the_last_version_and_its_evaluation() -> None:
    sync = Alone()
    trainer = gpt_trainer(sync)
    trainer.train()
    closing = sync.closing
    assert isinstance(closing, Closing)
    assert (closing.version, closing.digest, closing.reason) == (5, trainer.digest(), "completed")
    assert closing.eval_loss == trainer.eval_loss is not None and closing.eval_weight == 6 * 16


def test_a_stopwatch_books_each_moment_once() -> None:
    """Laps add up under their names, what lies between `mark` and the lap before is nobody's, `step` is all of it."""
    watch = Stopwatch()
    watch.lap("data")
    watch.lap("compute")
    watch.lap("data")
    watch.mark()
    seconds = watch.total()
    assert set(seconds) == {"data", "compute", "step"}
    assert 0 <= seconds["data"] + seconds["compute"] <= seconds["step"]
    assert watch.total()["step"] > seconds["step"] and watch.seconds["data"] == seconds["data"]


def test_a_lap_may_be_split_between_waiting_and_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the whole lap is waiting, at least none; both parts add up to it."""
    now_s = [0.0]
    monkeypatch.setattr("lightwatch.metrics.time.perf_counter", lambda: now_s[0])
    watch = Stopwatch()
    for lap_s, waited_s in ((1.0, 0.25), (1.0, 5.0), (1.0, -3.0)):
        now_s[0] += lap_s
        watch.split("wait", waited_s, "reduce")
    assert watch.seconds == {"wait": 0.25 + 1.0, "reduce": 0.75 + 1.0}
    assert watch.of("wait", "nothing") == 1.25
