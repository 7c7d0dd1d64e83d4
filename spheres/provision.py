"""How a sphere comes to a state that it lacks, and gives the one that it has.

Laws
  1. Whoever holds the state with which a generation began serves it, until the first tail that all have ended: nobody
     who still needs it can be missing from that.
  2. What was fetched is kept until then, and gone on with should the generation break.
"""

from __future__ import annotations

from collections.abc import Callable

from control.crash import here
from control.protocol import Go, How, Member, Position, View
from lightwatch.snapshot import Snapshot

from .fetch import Fetch, FetchBroken
from .folder import Folder
from .larder import Larder
from .meter import Meter
from .stock import Partial, Whole


class Provision:
    """Of one sphere. The trainer's thread alone calls it. meter: where it books what it fetched."""

    def __init__(self, larder: Larder, folder: Folder, silence_s: float, meter: Meter) -> None:
        self._larder = larder
        self._folder = folder
        self._silence_s = silence_s
        self._meter = meter
        self._own: Callable[[], Snapshot] | None = None
        self._partial: Partial | None = None
        self._partial_at: Position | None = None

    def enter(self, view: View) -> None:
        """This sphere is a member of that generation: from now on others of it may fetch here."""
        self._larder.word = view.word

    def begin(self, go: Go, own: Callable[[], Snapshot]) -> None:
        """A generation begins. own: gives this sphere's state, as it is when it is asked for."""
        self._own = own
        if go.how is How.RECORD:
            here("sphere.follows_record")
        if go.how is How.HERE:
            self.serve(go)

    def serve(self, go: Go) -> None:
        """This sphere stands where the generation began: peers may fetch it here."""
        if self._own is not None and not self._larder.offers((go.generation, go.position)):
            self._larder.offer((go.generation, go.position), Whole(self._own()))
        self._own = None

    def get(self, go: Go, donor: Member | None, over: Callable[[], bool]) -> Snapshot:
        """The state that Go says to fetch or to load. It is served at once, a fetched one while it comes.

        Blocks. over: whether nobody needs it any more. Raises FetchBroken, DataError.
        """
        key = (go.generation, go.position)
        here("sphere.fetch_begins")
        if go.how is How.LOAD:
            snapshot = self._folder.read_v0(go.digest) if go.load is None else self._folder.read(go.load)
            self._larder.offer(key, Whole(snapshot))
            return snapshot
        if donor is None:
            raise FetchBroken(f"control named sphere {go.donor} as a donor, which is no peer here [LW901]")
        kept = self._partial if self._partial_at == go.position else None
        wanted = Fetch(donor, key, kept, self._silence_s, over)
        try:
            return wanted.run(self._larder).snapshot()
        finally:
            self._meter.fetched(donor.path, wanted.came_bytes)
            if wanted.partial is not None:
                self._partial, self._partial_at = wanted.partial, go.position

    def end(self) -> None:
        """The generation is left: nothing is served. Waits for the chunk that is being read."""
        self._larder.withdraw()
        self._own = None

    def arrived(self) -> None:
        """All have come to a tail, so all hold the state: it may change now."""
        self.end()
        self._partial = self._partial_at = None
