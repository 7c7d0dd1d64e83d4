"""What rows add up to equals a sum written out in plain Python, in whatever order and however often they come."""

from __future__ import annotations

import itertools
import math
import random
from collections import defaultdict

import pytest

from control.apply import apply
from control.events import SphereBeat, SphereCame, SphereReported
from control.protocol import Answer, Beat, Closed, Hello, Phase, Position, Row
from control.report import status_of, story_of, totals_by_path
from control.state import State
from control.status import Status, Totals, Traffic
from control.totals import RECENT, Account, booked, closed, merged
from control.wire import MAX_FRAME_BYTES, decode_at_client, encode
from tests.control.play import Play

NAMES = ("data", "compute", "wait", "reduce", "update", "step")


def row_of(version: int, seed: int, paths: tuple[str, ...] = ("0", "1"), **fields: object) -> Row:
    """A sphere's row of a version, with numbers of its own."""
    dice = random.Random(1000 * version + seed)
    told: dict[str, object] = {
        "seconds": {name: dice.random() for name in NAMES},
        "slowest": paths[version % len(paths)],
        "own_units": dice.randrange(9),
        "own_samples": dice.randrange(99),
        "own_weight": dice.randrange(999),
        "attempts": 1 + (version % 5 == 0),
        "traffic": [Traffic(level=level, up=version * (seed + level), least=version, seconds=0.1) for level in (0, 1)],
    }
    return Row(generation=(1, 1), version=version, check=1, **(told | fields))  # type: ignore[arg-type]


def told_by(play: Play, rows: list[tuple[str, Row]]) -> Status:
    for path, row in rows:
        play.row(path, row.version, **{name: getattr(row, name) for name in row.__struct_fields__ if name != "version"})
    return status_of(play.state, play.now_s)


@pytest.mark.parametrize("seed", range(5))
def test_totals_are_the_sum_over_all_rows_whatever_their_order_and_number(seed: int) -> None:
    """Rows are lost, come twice, and late by fewer versions than are kept one by one; each counts once."""
    dice, paths = random.Random(seed), ("a/0", "a/1", "b/0")
    rows = [(path, row_of(version, place, paths)) for version in range(1, 60) for place, path in enumerate(paths)]
    rows = [each for each in rows if dice.random() > 0.1]
    late = sorted(range(len(rows)), key=lambda place: place + dice.uniform(0, 20))
    given = [rows[place] for place in late for _ in range(dice.choice((1, 1, 2)))]
    found = told_by(Play(*paths).begin(), given)
    held_up: dict[str, float] = defaultdict(float)
    for path, row in rows:
        if row.slowest is not None and row.slowest != path:
            held_up[row.slowest] += row.seconds["wait"]
    for sphere in found.spheres:
        mine, totals = [row for path, row in rows if path == sphere.path], sphere.totals
        assert (totals.versions, totals.micro_batches) == (len(mine), sum(row.own_units for row in mine))
        assert (totals.samples, totals.tokens) == (
            sum(row.own_samples for row in mine),
            sum(row.own_weight for row in mine),
        )
        assert totals.retries == sum(row.attempts - 1 for row in mine)
        for name in NAMES:
            assert totals.seconds[name] == pytest.approx(math.fsum(row.seconds[name] for row in mine), abs=1e-4)
        assert totals.held_up_s == pytest.approx(held_up[sphere.path], abs=1e-4)
        newest = max(mine, key=lambda row: row.version)
        assert sphere.up_bytes == sum(level.up for level in newest.traffic)


def test_merging_is_associative_and_nothing_is_neutral() -> None:
    """Up the tree in any grouping: the same to the last bit."""
    accounts = []
    for seed in range(4):
        account = Account()
        for version in range(1, 8):
            account = booked(account, row_of(version, seed, round_trips={"0 – 1": seed / 7, f"{seed} – x": 0.1}))
        accounts.append(account.totals)
    whole = merged(accounts)
    for order in itertools.permutations(accounts):
        a, b, c, d = order
        assert merged((merged((a, b)), merged((c, d)))) == whole
        assert merged((a, merged((b, merged((c, d)))))) == whole
    assert merged((whole, Totals())) == whole == merged((Totals(), whole))
    assert merged(()) == Totals()


def test_known_speeds_give_the_known_throughput() -> None:
    """Two spheres, a step of half a second: 3 and 1 micro-batches of 4 samples, 32 tokens each."""
    play = Play("0", "1").begin()
    for version in range(1, 31):
        for path, units in (("0", 3), ("1", 1)):
            own = {"own_units": units, "own_samples": 4 * units, "own_weight": 32 * units}
            play.row(path, version, seconds={"step": 0.5}, samples=32, weight=256, skipped=version % 2 == 0, **own)
    found = status_of(play.state, 0.0)
    paces = [sphere.throughput for sphere in found.spheres]
    assert [(each.micro_batches_per_s, each.samples_per_s, each.tokens_per_s) for each in paces] == [
        (6.0, 24.0, 192.0),
        (2.0, 8.0, 64.0),
    ]
    assert (found.throughput.samples_per_s, found.throughput.tokens_per_s, found.tokens_per_s) == (64.0, 512.0, 512.0)
    assert found.throughput.micro_batches_per_s == 16.0  # of a step of 8, as the spheres proved
    assert found.updates_per_s == pytest.approx(1.0, abs=0.06)  # each second one is skipped


def test_throughput_and_shares_are_of_the_newest_versions() -> None:
    """A slow beginning is forgotten after so many."""
    play = Play("0").begin()
    for version in range(1, 100):
        seconds = {"step": 0.1, "wait": 0.01, "reduce": 0.02} if version > 5 else {"step": 60.0}
        play.row("0", version, seconds=seconds, weight=10, own_weight=10)
    found = status_of(play.state, 0.0)
    assert found.spheres[0].throughput.tokens_per_s == pytest.approx(100.0)
    assert found.throughput.tokens_per_s == pytest.approx(100.0)
    assert found.spheres[0].sync_share == pytest.approx(0.3)
    assert found.spheres[0].totals.sync_share == pytest.approx(94 * 0.03 / (94 * 0.1 + 300))
    assert found.recent.versions == RECENT


def test_no_number_of_a_row_spoils_a_sum() -> None:
    """NaN, infinity and negative seconds are dropped, and what is left is counted."""
    bad = {"step": 1.0, "wait": math.nan, "reduce": math.inf, "update": -1.0, "data": 1e300}
    account = booked(
        Account(), row_of(1, 0, seconds=bad, traffic=[Traffic(level=0, seconds=math.nan)], round_trips={"l": math.nan})
    )
    assert merged([account.totals]) == merged([booked(account, row_of(1, 0)).totals])
    assert account.totals.seconds == {"step": 1.0} and account.totals.round_trips == {}
    assert merged([account.totals]).traffic == [Traffic(level=0)]


def test_a_row_without_seconds_tells_of_no_step() -> None:
    """The start's, or a restored one: its traffic counts, its version does not."""
    account = booked(Account(), row_of(0, 3, seconds={}, traffic=[Traffic(level=0, up=7)]))
    assert account.totals == Totals(traffic=[Traffic(level=0, up=7)])


def test_the_closing_holds_the_last_traffic_and_the_time_to_save_once() -> None:
    """It may be said again after a broken connection."""
    account = booked(Account(), row_of(1, 0))
    closing = Closed(generation=(1, 1), version=1, digest="d", traffic=[Traffic(level=0, up=9)], save_s=2.5)
    once = closed(account, closing)
    assert closed(once, closing) == once
    assert once.totals.seconds["save"] == 2.5 and once.totals.traffic == [Traffic(level=0, up=9)]


def test_what_is_noted_has_every_path_also_one_that_never_reported() -> None:
    play = Play("0", "1").begin()
    told_by(play, [("0", row_of(1, 0))])
    found = totals_by_path(play.state)
    assert list(found) == ["0", "1"]
    assert (found["0"].versions, found["1"].versions) == (1, 0)
    assert found["1"].held_up_s > 0  # sphere 0 waited for it


def test_the_status_of_a_thousand_spheres_fits_into_a_frame() -> None:
    """With all that each of them tells."""
    paths = tuple(f"{a}/{b}/{c}" for a in range(10) for b in range(10) for c in range(10))
    state = State(run_id="run", paths=paths)
    for sphere, path in enumerate(paths, 1):
        hello = Hello(run_id="run", path=path, pid=1_000_000 + sphere, host=f"machine-{sphere}.example.org")
        beat = Beat(generation=(1, 1), number=9, phase=Phase.COMPUTING, position=Position(), cpu_s=1 / 3)
        row = row_of(10**6, sphere, paths, round_trips={f"{path} – {sphere}": 0.05} if sphere % 10 == 0 else {})
        for event in (
            SphereCame(sphere=sphere, hello=hello, at_s=0.0),
            SphereBeat(sphere=sphere, beat=beat, at_s=0.0),
            SphereReported(sphere=sphere, row=row, at_s=0.0),
        ):
            state = apply(state, event)
    frame = encode(Answer(request="1", ok=True, status=status_of(state, 1 / 3)))
    assert len(frame) < 0.8 * MAX_FRAME_BYTES
    answer = decode_at_client(frame)
    assert isinstance(answer, Answer) and answer.status is not None and len(answer.status.spheres) == 1000


# ---------------------------------------------------------------- how training goes


def test_the_best_losses_are_the_lowest_and_name_their_versions() -> None:
    """Once for each version, whoever tells it; no number is no loss."""
    play = Play("0", "1").begin()
    losses = [3.0, 2.0, math.nan, 1.5, 1.5, 2.5]
    for version, loss in enumerate(losses, 1):
        for path in ("0", "1"):
            play.row(path, version, loss=loss, eval_loss=loss + 1 if version % 2 == 0 else None, clip_ratio=1 / version)
    found = status_of(play.state, 0.0).progress
    assert found.best is not None and (found.best.value, found.best.version) == (1.5, 4)
    assert found.best_eval is not None and (found.best_eval.value, found.best_eval.version) == (2.5, 4)
    assert (found.eval_loss, found.clip_ratio, found.skipped) == (3.5, 1 / 6, 0)


def test_a_skipped_version_is_told_with_its_reason_and_counted_once() -> None:
    play = Play("0", "1").begin()
    stories = []
    for path in ("0", "1"):
        before = play.state
        play.row(path, 1, skipped=True, trouble="micro-batch 3 of sphere 1 has a loss of NaN")
        stories.append(story_of(before, play.facts[-1], play.state))
    assert stories[0] is not None and stories[1] is None
    assert stories[0].text == "version 1 skipped its update: micro-batch 3 of sphere 1 has a loss of NaN"
    progress = status_of(play.state, 0.0).progress
    assert (progress.skipped, progress.trouble) == (1, "micro-batch 3 of sphere 1 has a loss of NaN")
