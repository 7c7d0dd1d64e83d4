"""The registry of callbacks: who is called when, and what becomes of what they raise."""

from __future__ import annotations

import dataclasses
import functools
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from lightwatch import callbacks
from lightwatch.callbacks import CallbackHandle, Callbacks, CallbackType, ErrorRaised
from lightwatch.errors import ConfigError, StateError
from lightwatch.metrics import TrainingState

BATCH_END = CallbackType.BATCH_END
POLICIES = ("raise", "log", "disable")


class Recorder:
    """Callbacks that write down their name, then do what they were made to do."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def named(self, name: str, then: Callable[[], object] = lambda: None) -> Callable[[Any], None]:
        def callback(payload: Any) -> None:
            self.called.append(name)
            then()

        return callback


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def fail(error: BaseException) -> Callable[[], None]:
    def raises() -> None:
        raise error

    return raises


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "lightwatch.callbacks"]


@pytest.mark.parametrize("type", CallbackType)
def test_each_type_calls_its_own_with_the_payload(type: CallbackType) -> None:
    """Named by the member or by its text; nobody else hears of it."""
    registry = Callbacks()
    seen: list[tuple[str, object]] = []
    for each in CallbackType:
        for named in (each, str(each)):
            registry.register(named, functools.partial(lambda *told: seen.append(told), f"{each}"))
    payload = object()
    registry.fire(type, payload)
    assert seen == [(type, payload)] * 2


def test_callbacks_are_called_in_the_order_of_their_registration(recorder: Recorder) -> None:
    """Each time; the same function twice is two registrations, and unregistering one leaves the other."""
    registry = Callbacks()
    first, twice = recorder.named("first"), recorder.named("twice")
    handles = [registry.register(BATCH_END, fn) for fn in (twice, first, twice)]
    assert len(set(handles)) == 3
    registry.fire(BATCH_END, None)
    registry.unregister(handles[0])
    registry.fire(BATCH_END, None)
    assert recorder.called == ["twice", "first", "twice", "first", "twice"]


def test_a_type_is_wanted_while_somebody_is_registered() -> None:
    """And only that type: a payload that nobody reads is not made."""
    registry = Callbacks()
    assert not any(map(registry.wanted, CallbackType))
    handles = [registry.register(BATCH_END, print) for _ in range(2)]
    assert [each for each in CallbackType if registry.wanted(each)] == [BATCH_END]
    registry.unregister(handles[1])
    assert registry.wanted(BATCH_END)
    registry.unregister(handles[0])
    assert not registry.wanted(BATCH_END)


def test_a_callback_may_unregister_itself(recorder: Recorder) -> None:
    """Its neighbours are called all the same, none is passed over."""
    registry = Callbacks()
    registry.register(BATCH_END, recorder.named("before"))
    handle = registry.register(BATCH_END, recorder.named("once", lambda: registry.unregister(handle)))
    registry.register(BATCH_END, recorder.named("after"))
    registry.fire(BATCH_END, None)
    registry.fire(BATCH_END, None)
    assert recorder.called == ["before", "once", "after", "before", "after"]


def test_one_unregistered_during_a_firing_and_not_yet_called_is_not_called(recorder: Recorder) -> None:
    """One that was called already has been called, and isn't again."""
    registry = Callbacks()
    early = registry.register(BATCH_END, recorder.named("early"))

    def unregister_both() -> None:
        registry.unregister(early)
        registry.unregister(late)

    registry.register(BATCH_END, recorder.named("middle", unregister_both))
    late = registry.register(BATCH_END, recorder.named("late"))
    registry.register(BATCH_END, recorder.named("last"))
    registry.fire(BATCH_END, None)
    assert recorder.called == ["early", "middle", "last"]
    registry.fire(BATCH_END, None)
    assert recorder.called[3:] == ["middle", "last"]


def test_one_registered_during_a_firing_is_called_from_the_next_on(recorder: Recorder) -> None:
    """So a callback that registers another each time never ends in a loop."""
    registry = Callbacks()
    more = recorder.named("more")
    registry.register(BATCH_END, recorder.named("first", lambda: registry.register(BATCH_END, more)))
    for expected in (["first"], ["first", "more"], ["first", "more", "more"]):
        recorder.called.clear()
        registry.fire(BATCH_END, None)
        assert recorder.called == expected


def test_another_thread_may_register_and_unregister_during_a_firing(recorder: Recorder) -> None:
    """Without waiting for the firing to end, which waits for that thread."""
    registry = Callbacks()

    def from_a_thread() -> None:
        def change() -> None:
            registry.unregister(late)
            registry.register(BATCH_END, recorder.named("new"))

        thread = threading.Thread(target=change)
        thread.start()
        thread.join()

    handle = registry.register(BATCH_END, recorder.named("first", from_a_thread))
    late = registry.register(BATCH_END, recorder.named("late"))
    registry.fire(BATCH_END, None)
    registry.unregister(handle)
    registry.fire(BATCH_END, None)
    assert recorder.called == ["first", "new"]


def test_unregistering_twice_does_nothing(recorder: Recorder) -> None:
    """What was asked for holds already: a clean-up needn't know whether a callback ended itself or was disabled."""
    registry = Callbacks()
    registry.register(BATCH_END, recorder.named("stays"))
    handle = registry.register(BATCH_END, recorder.named("goes"))
    disabled = registry.register(BATCH_END, recorder.named("breaks", fail(ValueError())), on_error="disable")
    registry.unregister(handle)
    registry.fire(BATCH_END, None)
    for each in (handle, handle, disabled):
        registry.unregister(each)
    registry.fire(BATCH_END, None)
    assert recorder.called == ["stays", "breaks", "stays"]


def test_a_handle_of_another_registry_and_what_is_no_handle_are_refused(recorder: Recorder) -> None:
    """Neither registry has changed after it."""
    registry, other = Callbacks(), Callbacks()
    fn = recorder.named("still")
    handle = other.register(BATCH_END, fn)
    registry.register(BATCH_END, fn)
    with pytest.raises(StateError, match="still|callback .* is registered elsewhere"):
        registry.unregister(handle)
    for wrong in (fn, None, "batch_end"):
        with pytest.raises(ConfigError, match="takes the handle that registering gave, got"):
            registry.unregister(wrong)  # type: ignore[arg-type]
    registry.fire(BATCH_END, None)
    other.fire(BATCH_END, None)
    assert recorder.called == ["still", "still"]


@pytest.mark.parametrize("wrong", ["batch", "BATCH_END", "", None, 3, ["batch_end"], int])
def test_an_unknown_type_is_refused_by_a_sentence_that_names_all(wrong: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        Callbacks().register(wrong, print)
    assert all(f'"{each}"' in str(caught.value) for each in CallbackType) and "got" in str(caught.value)


@pytest.mark.parametrize("wrong", ["ignore", "", None, True])
def test_an_unknown_policy_is_refused_by_a_sentence_that_names_all(wrong: Any) -> None:
    registry = Callbacks()
    with pytest.raises(ConfigError, match='on_error must be "raise", "log" or "disable", got'):
        registry.register(BATCH_END, print, wrong)
    assert not registry.wanted(BATCH_END)


def test_what_cannot_be_called_is_refused_and_an_async_function_too() -> None:
    """Calling the latter would run nothing of it."""

    async def later(payload: object) -> None: ...

    registry = Callbacks()
    for wrong, got in ((3, "got 3"), (None, "got none"), (later, "async")):
        with pytest.raises(ConfigError, match=f"a function of one argument.*{got}"):
            registry.register(BATCH_END, wrong)  # type: ignore[arg-type]
    assert not registry.wanted(BATCH_END)


def test_raise_lets_the_exception_out_at_once_as_it_is(recorder: Recorder, caplog: pytest.LogCaptureFixture) -> None:
    """The very object, with nothing behind it; those later in order are not called, the registration stays."""
    registry = Callbacks()
    error = ValueError("a mistake")
    registry.register(BATCH_END, recorder.named("breaks", fail(error)))
    registry.register(BATCH_END, recorder.named("later"))
    for _ in range(2):
        with pytest.raises(ValueError) as caught:
            registry.fire(BATCH_END, None)
        assert caught.value is error and error.__cause__ is None and error.__context__ is None
    assert recorder.called == ["breaks", "breaks"] and not messages(caplog)


def breaks(payload: object) -> None:
    raise OSError("no room")  # the line that the log names


@pytest.mark.parametrize(("policy", "times"), [("log", 3), ("disable", 1)])
def test_log_and_disable_tell_the_log_and_the_others_are_called(
    policy: Any, times: int, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Once a firing, with name, type, exception and line; a disabled one is called once, ever."""
    registry = Callbacks()
    registry.register(BATCH_END, recorder.named("before"))
    handle = registry.register(BATCH_END, breaks, on_error=policy)
    registry.register(BATCH_END, recorder.named("after"))
    for _ in range(3):
        registry.fire(BATCH_END, None)
    assert recorder.called == ["before", "after"] * 3
    told = messages(caplog)
    line = breaks.__code__.co_firstlineno + 1
    expected = f"callback breaks for batch_end raised OSError: no room (in test_callback_registry.py, line {line}); "
    assert len(told) == times and all(each.startswith(expected) for each in told)
    assert told[-1].endswith(
        f"it {'goes on being' if policy == 'log' else 'is not'} called{'' if policy == 'log' else ' again'} [LW801]"
    )
    assert handle.on_error == policy and all(record.exc_info is None for record in caplog.records)


def test_a_log_of_every_detail_has_the_whole_traceback(caplog: pytest.LogCaptureFixture) -> None:
    registry = Callbacks()
    registry.register(BATCH_END, breaks, on_error="log")
    with caplog.at_level(logging.DEBUG, logger="lightwatch"):
        registry.fire(BATCH_END, None)
    assert "the line that the log names" in caplog.text and "Traceback" in caplog.text


def test_a_callback_without_a_name_or_of_another_number_of_arguments_is_told_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A partial, an object, a function that takes nothing: each is one line, none a second exception."""

    class Plotter:
        def __call__(self, payload: object) -> None:
            raise KeyError("x")

    registry = Callbacks()
    for fn in (functools.partial(breaks), Plotter(), lambda: None):
        registry.register(BATCH_END, fn, on_error="log")  # type: ignore[arg-type]
    registry.fire(BATCH_END, None)
    partial, plotter, nothing = messages(caplog)
    assert "partial" in partial and "Plotter" in plotter and "KeyError" in plotter and "TypeError" in nothing


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("type", [BATCH_END, CallbackType.ERROR])
def test_an_interrupt_and_an_exit_leave_under_any_policy(
    type: CallbackType, policy: Any, error: BaseException, recorder: Recorder
) -> None:
    """They are meant for the process; nobody after is called, and nobody is disabled by it."""
    registry = Callbacks()
    registry.register(type, recorder.named("leaves", fail(error)), on_error=policy)
    registry.register(type, recorder.named("later"))
    for _ in range(2):
        with pytest.raises(BaseException) as caught:
            registry.fire(type, None)
        assert caught.value is error
    assert recorder.called == ["leaves", "leaves"]


@pytest.mark.parametrize("policy", POLICIES)
def test_an_error_callback_never_replaces_the_error_that_is_told(
    policy: Any, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever its policy: all are told, what they raise is logged, and what was raised first goes on."""
    registry = Callbacks()
    first = ArithmeticError("the first")
    told: list[ErrorRaised] = []
    registry.register(CallbackType.ERROR, recorder.named("breaks", fail(ValueError("a second"))), on_error=policy)
    registry.register(CallbackType.ERROR, told.append)
    with pytest.raises(ArithmeticError) as caught:
        try:
            raise first
        except ArithmeticError as error:
            registry.fire(CallbackType.ERROR, ErrorRaised(error, 4))
            raise
    assert caught.value is first and first.__context__ is None
    assert told == [ErrorRaised(first, 4)] and "ValueError: a second" in messages(caplog)[0]
    registry.fire(CallbackType.ERROR, ErrorRaised(first, 4))
    assert len(told) == 2 and recorder.called == ["breaks"] * (1 if policy == "disable" else 2)


def test_one_that_unregisters_itself_and_then_raises_is_gone(recorder: Recorder) -> None:
    """Under every policy, and its exception is treated by it all the same."""
    registry = Callbacks()
    handles: dict[str, CallbackHandle] = {}

    def leave(policy: str) -> None:
        registry.unregister(handles[policy])
        raise ValueError(policy)

    for policy in ("log", "disable", "raise"):
        fn = recorder.named(policy, functools.partial(leave, policy))
        handles[policy] = registry.register(BATCH_END, fn, policy)
    with pytest.raises(ValueError, match="raise"):
        registry.fire(BATCH_END, None)
    registry.fire(BATCH_END, None)
    assert recorder.called == ["log", "disable", "raise"] and not registry.wanted(BATCH_END)


def table() -> dict[str, str]:
    """Type -> payload, as the head of callbacks.py says it."""
    rows = re.findall(r"^    ([A-Z]+_?[A-Z]+) +\S.*\S +(\w+)$", callbacks.__doc__ or "", re.MULTILINE)
    return dict(rows)


def test_the_eight_types_are_documented_in_one_place() -> None:
    """One row each, in their order; each payload is a frozen dataclass that says what its fields are."""
    found = table()
    assert list(found) == [each.name for each in CallbackType] and len(found) == 8
    assert found.pop("WEIGHT_UPDATE") == TrainingState.__name__
    assert len(set(found.values())) == 7
    for name in found.values():
        payload: Any = getattr(callbacks, name)
        assert payload.__dataclass_params__.frozen
        missing = [each.name for each in dataclasses.fields(payload) if each.name not in (payload.__doc__ or "")]
        assert not missing, f"{name} says nothing of {missing}"


def test_a_payload_cannot_be_changed_by_its_reader() -> None:
    """Those called later are told the same."""
    payload = callbacks.BatchEnd(step=1, index=0, loss=2.0, weight=16, samples=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        payload.loss = 0.0  # type: ignore[misc]


def test_a_gradients_statistics_are_made_only_when_they_are_asked_for() -> None:
    """Not when the payload is made, shown or compared."""
    asked: list[int] = []
    payload = callbacks.GradientSync(3, 1.0, 64, 0.0, 0.0, lambda: asked.append(1))
    assert payload == dataclasses.replace(payload, statistics=print) and "statistics" not in repr(payload)
    assert not asked
    payload.statistics()
    assert asked == [1]
