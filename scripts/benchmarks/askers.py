"""Clients in a process of their own: some ask for `status` once a second each, one reads the run's story.

`python -m scripts.benchmarks.askers ADDRESS SECONDS ASKERS EVENTS` prints a line of JSON when the time is over: events
that were read, how many control says it left out, after how many seconds there were EVENTS of them (null: never), and
how long each answer to `status` took. EVENTS 0: nobody reads.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from control.client import ControlClient

from .processes import die_with_parent


class Reader(threading.Thread):
    """Reads the story until the time is over."""

    def __init__(self, address: str, until_s: float, events: int) -> None:
        super().__init__(daemon=True)
        self._address, self._until_s, self._wanted = address, until_s, events
        self.read = self.lost = 0
        self.took_s: float | None = None

    def run(self) -> None:
        began_s = time.monotonic()
        with ControlClient(self._address) as client:
            for event in client.events():
                self.read += 1
                self.lost += getattr(event, "lost", 0)
                if self.read == self._wanted:
                    self.took_s = time.monotonic() - began_s
                if time.monotonic() >= self._until_s:
                    return


class Asker(threading.Thread):
    """Asks once a second, from a moment of its own within the second."""

    def __init__(self, address: str, until_s: float, offset_s: float) -> None:
        super().__init__(daemon=True)
        self._address, self._until_s, self._offset_s = address, until_s, offset_s
        self.took_s: list[float] = []

    def run(self) -> None:
        with ControlClient(self._address) as client:
            due_s = time.monotonic() + self._offset_s
            while due_s < self._until_s:
                time.sleep(max(0.0, due_s - time.monotonic()))
                began_s = time.monotonic()
                client.status()
                self.took_s.append(time.monotonic() - began_s)
                due_s += 1.0


def main(address: str, seconds: float, askers: int, events: int) -> None:
    die_with_parent()
    until_s = time.monotonic() + seconds
    asking = [Asker(address, until_s, number / askers) for number in range(askers)]
    readers = [Reader(address, until_s, events)] if events else []
    for thread in [*asking, *readers]:
        thread.start()
    for thread in [*asking, *readers]:
        thread.join()
    found = {
        "read": sum(reader.read for reader in readers),
        "lost": sum(reader.lost for reader in readers),
        "took_s": readers[0].took_s if readers else None,
        "answers_s": [round(took_s, 5) for asker in asking for took_s in asker.took_s],
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
