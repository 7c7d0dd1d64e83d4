"""Buckets on their way over the tree, while the sphere computes: up each level, across the top, down again.

Laws
  1. Every stage is a thread that takes buckets in the order of `start`: gloo pairs collectives by order.
  2. Stages don't wait for each other: one bucket descends while the next crosses the top and a third one climbs, so
     that the thinnest link is never idle while there is something for it.
  3. `start` never blocks and never raises: it is called from within a backward. What went wrong shows in `finish`;
     after the first failure the buckets still under way pass through untouched.
  4. The threads are daemons that wait in gloo. An interpreter that ends while a bucket is under way is aborted by C++,
     so whoever hosts a pipeline closes it after the last `finish`, or leaves by os._exit as a sphere's worker does.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from control.crash import here
from lightwatch.errors import coded
from lightwatch.trace import Trace

from .exchange import HEAD, Exchange
from .groups import WATCH_S, Groups, PeerLost
from .reduce import Stage, stages_of

Item = tuple[str, Tensor] | None
"""What a profile calls it, and the tensor itself; None is the end."""


class Pipeline:
    """Of one sphere in one generation. `start`, `finish`, `exchange` are one thread's; daemon threads do the work.

    trace: where they show what they do, if anywhere.
    """

    def __init__(self, groups: Groups) -> None:
        self._groups = groups
        self._exchange = Exchange(groups)
        self._trouble = ""
        self._under_way = 0
        self.trace: Trace | None = None
        self._first, self._done = self._line(stages_of(groups))
        self._records, self._totals = self._line({"sum": self._exchange.sum})

    def start(self, bucket: Tensor) -> None:
        """Let this bucket go; leave it alone until `finish`, which makes it the sum over all spheres."""
        self._first.put((f"bucket {self._under_way}", bucket))
        self._under_way += 1

    def finish(self) -> list[Tensor]:
        """The buckets started since the last `finish`, in order, each summed. Blocks. Raises PeerLost."""
        count, self._under_way = self._under_way, 0
        return [self._take(self._done) for _ in range(count)]

    def exchange(self, vector: Tensor) -> None:
        """Overwrite a small int64 vector with its sum over all spheres. Blocks. Raises PeerLost."""
        record = torch.cat([torch.zeros(HEAD, dtype=torch.int64), vector])
        self._records.put(("tail", record))
        vector.copy_(self._take(self._totals)[HEAD:])  # here: a thread that was left behind writes into nobody's vector

    def round_trips(self) -> dict[str, float]:
        """Seconds by link, as the exchanges measured them."""
        return self._exchange.round_trips()

    def close(self) -> None:
        """Let the threads end; one that hangs in gloo is left behind."""
        for queue in (self._first, self._records):
            queue.put(None)
        self._exchange.close()

    def _line(self, stages: dict[str, Stage]) -> tuple[SimpleQueue[Item], SimpleQueue[Item]]:
        """The ends of a chain of threads, one for each stage."""
        first: SimpleQueue[Item] = SimpleQueue()
        inbox = first
        for name, stage in stages.items():
            outbox: SimpleQueue[Item] = SimpleQueue()
            work = partial(self._work, name, stage, inbox, outbox)
            threading.Thread(target=work, name=name, daemon=True).start()
            inbox = outbox
        return first, inbox

    def _work(self, name: str, stage: Stage, inbox: SimpleQueue[Item], outbox: SimpleQueue[Item]) -> None:
        while (item := inbox.get()) is not None:
            if not self._trouble:
                began_s = time.perf_counter()
                try:
                    stage(item[1])
                    here("sphere.bucket_summed")
                except Exception as error:  # only its words: its traceback would keep dead groups alive
                    self._trouble = str(error) or type(error).__name__
                if self.trace is not None:
                    self.trace.span(f"{item[0]}: {name}", began_s, name)
            outbox.put(item)
            del item
        outbox.put(None)

    def _take(self, queue: SimpleQueue[Item]) -> Tensor:
        began_s = time.monotonic()
        while True:
            try:
                item = queue.get(timeout=WATCH_S)
            except Empty:
                self._trouble = self._trouble or self._groups.trouble(time.monotonic() - began_s)
                item = None
            if self._trouble:
                self._groups.abort()
                raise PeerLost(coded(self._trouble, "LW408"))
            if item is not None:
                return item[1]
