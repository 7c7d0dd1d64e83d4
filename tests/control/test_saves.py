"""Checkpoints of a tree, as control sees them: whole or given up; who is told what; what the end waits for."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from control.events import CheckpointSaved, SaveGivenUp, SphereReturned
from control.flights import SAVE_S
from control.plan import AGAIN_S
from control.protocol import Go, Phase, SaveOver, SaveState, Seal, Stored
from control.report import status_of, story_of
from control.saves import KEPT, Saves, saved
from tests.control.play import Play, called

WRITING, WRITTEN, SEALED, FAILED = SaveState.WRITING, SaveState.WRITTEN, SaveState.SEALED, SaveState.FAILED


@pytest.fixture
def play() -> Play:
    """Two spheres that compute, both of them writers."""
    return Play("0", "1").begin()


def written(play: Play, version: int = 5) -> Play:
    """Both parts of a save are on the disk."""
    for state in (WRITING, WRITTEN):
        for path in ("0", "1"):
            play.save(path, state, version)
    return play


def sealed(play: Play, version: int = 5, **fields: object) -> Play:
    written(play, version).save("0", SEALED, version, **fields)
    return play


def anew(play: Play, version: int) -> dict[int, Go]:
    """Another generation begins with all who are here, at this version."""
    called(play)
    play.settle()
    for path in play.members:
        play.ready(path, version=version)
    return play.told(Go)


def outcomes(play: Play) -> list[CheckpointSaved | SaveGivenUp]:
    return [event for event in play.facts if isinstance(event, CheckpointSaved | SaveGivenUp)]


def given_up(play: Play) -> SaveGivenUp:
    (event,) = outcomes(play)
    assert isinstance(event, SaveGivenUp)
    return event


def kept(play: Play) -> dict[int, bool]:
    """What each was told of the end of its save."""
    return {sphere: over.kept for sphere, over in play.told(SaveOver).items()}


def alarm(play: Play) -> str:
    return status_of(play.state, play.now_s).alarm


# ---------------------------------------------------------------- a save that succeeds


def test_the_first_writer_seals_once_all_parts_are_on_the_disk(play: Play) -> None:
    """With all of them, in the writers' order, whoever was first."""
    play.save("1", WRITTEN)
    assert not play.told(Seal)
    play.save("0", WRITTEN)
    assert [part.name for part in play.told(Seal)[1].parts] == ["5-0", "5-1"]
    assert set(play.told(Seal)) == {1} and not play.told(SaveOver)


def test_a_word_that_comes_late_takes_nothing_back(play: Play) -> None:
    """One that was said before what control heard last, over a connection that broke."""
    for path, late, version in (("0", WRITING, 5), ("1", WRITTEN, 4)):
        play.save(path, WRITTEN, 5)
        play.save(path, late, version)
    assert len(play.told(Seal)) == 1


def test_a_seal_is_said_again_until_it_is_obeyed(play: Play) -> None:
    """It may have been lost; after SEALED there is nothing left to seal."""
    written(play)
    play.sent.clear()
    play.wait(AGAIN_S / 2)
    assert not play.told(Seal)
    play.wait(AGAIN_S)
    assert set(play.told(Seal)) == {1}
    play.sent.clear()
    play.save("0", SEALED)
    play.wait(2 * AGAIN_S)
    assert not play.told(Seal)


def test_a_checkpoint_counts_once_the_ledger_has_it(play: Play) -> None:
    """Then both writers are told that it is kept, once."""
    sealed(play)
    (event,) = outcomes(play)
    assert isinstance(event, CheckpointSaved) and event.generation == play.generation
    assert event.stored == Stored(name="step-5", lineage=0, version=5, digest="d5")
    assert event.bytes == 200 and event.manifest_sha256 == "m5"
    assert kept(play) == {1: True, 2: True}
    play.sent.clear()
    play.wait(2 * AGAIN_S)
    assert not play.told(SaveOver)
    status = status_of(play.state, play.now_s)
    assert (status.checkpoint, status.checkpoint_version, status.alarm) == ("step-5", 5, "")
    story = story_of(play.state, event, play.state)
    assert story is not None and story.kind == "checkpoint" and "checkpoint step-5 is whole" in story.text


def test_the_manifest_is_told_of_control_and_of_each_sphere(play: Play) -> None:
    """As it stands then: who is in, what was ordered, what each path has done."""
    play.order("set_learning_rate", 0.5)
    for path in ("0", "1"):
        play.row(path, 1, seconds={"step": 2.0}, own_units=4, own_samples=8)
    written(play)
    seal = play.told(Seal)[1]
    control, spheres = json.loads(seal.control), json.loads(seal.spheres)
    assert control["run_id"] == "run" and [each["path"] for each in control["members"]] == ["0", "1"]
    assert control["orders"][0]["wanted"]["learning_rate"] == 0.5 and control["held"] == 1
    assert [each["path"] for each in spheres] == ["0", "1"] and spheres[1]["micro_batches"] == 4
    assert spheres[0]["throughput"]["samples_per_s"] == 4.0


def test_one_who_is_back_is_told_again_how_its_save_ended(play: Play) -> None:
    """Nothing acknowledges it, so it is told once a connection."""
    sealed(play)
    play.sent.clear()
    play.lose("1")
    play.happen(SphereReturned(sphere=2, at_s=play.now_s))
    play.settle()
    assert kept(play) == {2: True}


def test_one_who_comes_back_later_still_hears_that_its_save_was_kept(play: Play) -> None:
    """Another was saved meanwhile, by others: it must not take away a whole one that it wrote."""
    sealed(play)
    play.lose("0")
    play.wait(1.0)
    play.ready("1", version=5)
    for state in (WRITTEN, SEALED):
        play.save("1", state, 6)
    assert [type(event) for event in outcomes(play)] == [CheckpointSaved, CheckpointSaved]
    play.sent.clear()
    play.happen(SphereReturned(sphere=1, at_s=play.now_s))
    play.settle()
    assert kept(play)[1] is True


def test_what_nobody_remembers_is_not_taken_away() -> None:
    """Whoever speaks of a save of long ago must not wait for ever, nor remove a whole one."""
    saves = Saves()
    for version in range(KEPT + 2):
        stored = Stored(name="f", lineage=0, version=version, digest="d")
        event = CheckpointSaved(stored=stored, generation=(1, 1), saves=0, manifest_sha256="m", bytes=1, at_s=0.0)
        saves = saved(saves, event)
    play = Play("0", "1").begin()
    play.state = replace(play.state, saves=saves)
    play.save("0", WRITTEN, 0)
    assert kept(play) == {1: True} and len(play.state.saves.ended) == KEPT and play.state.saves.flight is None


# ---------------------------------------------------------------- a save that does not


def test_a_save_that_one_writer_cant_write_is_given_up_with_its_reason(play: Play) -> None:
    """The others take away what they wrote; the alarm stays until a checkpoint is whole again."""
    play.save("0", WRITTEN)
    play.save("1", FAILED)
    event = given_up(play)
    assert event.disk and "sphere 1 (pid" in event.text and "the disk is full" in event.text
    assert kept(play) == {1: False}
    assert "the disk is full" in alarm(play) and alarm(play).endswith("[LW608]")
    story = story_of(play.state, event, play.state)
    assert story is not None and "the checkpoint of version 5 is given up: sphere 1" in story.text
    sealed(play, 6)
    assert not alarm(play)


def test_what_is_said_of_a_save_that_has_ended_changes_nothing(play: Play) -> None:
    """A seal that crossed with its end does not bring it back, and is undone."""
    written(play)
    play.save("1", FAILED)
    play.save("0", SEALED)
    assert given_up(play).disk and kept(play) == {1: False}


def test_a_save_of_which_a_writer_is_lost_is_given_up_and_made_again(play: Play) -> None:
    """Once the generation without it has begun; its Go says that the next version is to be saved."""
    play.save("0", WRITTEN)
    play.save("1", WRITING)
    play.lose("1")
    play.wait(1.0)
    assert play.members == ["0"] and not outcomes(play)
    play.ready("0", version=5)
    assert play.told(Go)[1].save == ""
    assert "was lost" in given_up(play).text and not given_up(play).disk and kept(play) == {1: False}
    assert not alarm(play), "nothing is wrong with the disk"


def test_a_save_survives_a_generation_in_which_all_its_writers_are(play: Play) -> None:
    """It goes on in the background; nothing is saved twice."""
    for path in ("0", "1"):
        play.save(path, WRITING)
    generation = play.generation
    assert [go.save for go in anew(play, 5).values()] == [None, None]
    play.keep_beating(2 * play.state.silence_s, "0", "1")
    for path in ("0", "1"):
        play.save(path, WRITTEN, generation=generation)
    play.save("0", SEALED, generation=generation)
    (event,) = outcomes(play)
    assert isinstance(event, CheckpointSaved) and event.generation == generation


def test_a_save_that_one_writer_never_began_is_made_again(play: Play) -> None:
    """It came to that version in another way, after the generation had broken."""
    play.save("0", WRITTEN)
    assert {go.save for go in anew(play, 5).values()} == {""}
    assert not outcomes(play), "it may say so in a moment: to a control that has just started all do"
    play.keep_beating(1.1 * play.state.silence_s, "0", "1")
    assert not given_up(play).disk


def test_a_control_that_has_just_started_gives_no_save_up_before_all_could_speak(play: Play) -> None:
    """They are back one by one, and each says again how far it had come."""
    generation = play.generation
    anew(play, 5)
    play.keep_beating(1.0, "0", "1")
    play.state = replace(play.state, saves=Saves(), adopting_s=play.now_s + play.state.silence_s)
    play.save("0", WRITTEN, generation=generation)
    assert not outcomes(play)
    play.save("1", WRITTEN, generation=generation)
    play.keep_beating(2 * play.state.silence_s, "0", "1")
    assert not outcomes(play) and play.told(Seal)


def test_a_save_whose_version_is_made_again_is_not_owed(play: Play) -> None:
    """It comes due with that version; what was loaded a moment ago needs no other copy."""
    for path in ("0", "1"):
        play.save(path, WRITING, 12)
    for version in range(1, 13):
        play.row("0", version)
    play.save("0", WRITING, 12)
    play.lose("1")
    play.wait(1.0)
    play.ready("0", version=11)
    assert play.told(Go)[1].save is None


def test_a_newer_save_takes_the_place_of_the_one_in_flight(play: Play) -> None:
    """Who waits for the former hears at once that it will not be."""
    play.save("0", WRITTEN)
    play.save("1", WRITING, 6)
    assert kept(play) == {1: False}
    anew(play, 3)
    play.sent.clear()
    sealed(play, 4)
    assert isinstance(outcomes(play)[-1], CheckpointSaved), "an earlier version, but of a later generation"


def test_weights_that_are_not_the_versions_are_never_a_checkpoint(play: Play) -> None:
    """A sick writer: what a tail agreed on is another digest."""
    play.row("0", 5, digest="good")
    sealed(play, digest="bad")
    assert given_up(play).disk and given_up(play).text.endswith("[LW304]") and kept(play) == {1: False, 2: False}
    other = Play("0", "1").begin()
    other.row("0", 5, digest="d5")
    sealed(other)
    assert isinstance(outcomes(other)[0], CheckpointSaved)


def test_a_save_of_what_a_restore_has_left_is_given_up(play: Play) -> None:
    """Nobody would wait for it, and its writers would save nothing else meanwhile."""
    for path in ("0", "1"):
        play.save(path, WRITING)
    generation = play.generation
    play.order("restore")
    for path in ("0", "1"):
        play.ready(path, version=5, stored=[Stored(name="step-2", lineage=0, version=2, digest="d2")])
    assert play.begun.position.lineage == 1 and kept(play) == {1: False, 2: False}
    play.save("0", WRITTEN, generation=generation, lineage=0)
    play.save("0", WRITTEN, 2, generation=generation, lineage=0, writers=[1])
    assert [type(event) for event in outcomes(play)] == [SaveGivenUp], "what is said of older ones begins none"


def test_only_a_writer_has_a_say_in_a_save(play: Play) -> None:
    assert not play.save("0", WRITTEN, writers=[2])
    assert not play.save("1", WRITTEN, 1 << 60)
    assert not play.save("1", WRITTEN, -1)


# ---------------------------------------------------------------- the end


def test_the_end_waits_for_the_save_in_flight(play: Play) -> None:
    """The version at which a run was stopped is in the ledger as a checkpoint when the run is over."""
    play.order("stop")
    for path in ("0", "1"):
        play.row(path, 5, in_force=1)
    written(play)
    for path in ("0", "1"):
        play.close(path, 5, reason="stopped")
    assert play.state.ended is None
    play.save("0", SEALED)
    assert play.ended.status == "stopped" and isinstance(outcomes(play)[0], CheckpointSaved)


def test_the_end_does_not_wait_for_ever(play: Play) -> None:
    """The disk may hang; what is whole later counts all the same."""
    for path in ("0", "1"):
        play.save(path, WRITING)
        play.close(path)
    play.keep_beating(SAVE_S - 1.0, "0", "1", phase=Phase.CLOSING)
    assert play.state.ended is None
    play.keep_beating(2.0, "0", "1", phase=Phase.CLOSING)
    assert play.ended.status == "completed"


def test_a_save_that_is_over_holds_nothing_up(play: Play) -> None:
    sealed(play)
    for path in ("0", "1"):
        play.close(path)
    assert play.ended.status == "completed"


def test_a_disk_that_hangs_is_an_alarm(play: Play) -> None:
    """Training goes on, but is saved nowhere."""
    for path in ("0", "1"):
        play.save(path, WRITING)
    play.keep_beating(SAVE_S - 1.0, "0", "1")
    assert not alarm(play)
    play.keep_beating(2.0, "0", "1")
    assert "version 5" in alarm(play) and alarm(play).endswith("[LW608]")
