"""Many URLs at once, their pictures in order: threads, turns by host, repetitions, and a bound on what is held.

The order of what comes out is that of what went in. A repetition waits without holding a thread, a host is asked by so
many threads and so often as it may be, and what has been read but not been taken keeps to a number of bytes; only the
picture that is awaited next may exceed it.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from seerctl.sources.item import Item
from seerctl.sources.reasons import Reason, RejectedError
from seerctl.sources.web.options import WebOptions
from seerctl.sources.web.retry import TryAgain, backoff

Claim = Callable[[int], float]
Get = Callable[[Item, Claim], bytes]
_AHEAD = 2048  # items in order of which the first is awaited
_JOIN_SECONDS = 2.0


class _Task:
    """An item on its way; one that is not `fetch` is done at once."""

    def __init__(self, item: Item, number: int, host: str, fetch: bool) -> None:
        self.item, self.number, self.host, self.fetch = item, number, host, fetch
        self.tries, self.held = 0, 0
        self.done = threading.Event()

    @property
    def settled(self) -> bool:
        """Whether nothing need be waited for."""
        return not self.fetch or self.done.is_set()

    def __lt__(self, other: _Task) -> bool:
        return self.number < other.number


@dataclass(slots=True)
class _Host:
    """Whose turn it is at one host."""

    waiting: list[_Task] = field(default_factory=list)  # a heap
    active: int = 0
    not_before: float = 0.0


class Crew:
    """Threads that fetch tasks by turns.

    One thread more than may fetch is there for the task that is awaited, should all others wait for room.
    """

    def __init__(self, get: Get, options: WebOptions) -> None:
        self._get, self._options = get, options
        self._lock = threading.Lock()
        self._work, self._room = threading.Condition(self._lock), threading.Condition(self._lock)
        self._hosts: dict[str, _Host] = {}
        self._ready: list[tuple[int, str]] = []  # (number of the first task, host), some out of date
        self._later: list[tuple[float, int, str, _Task | None]] = []  # repetitions, and hosts not to be asked yet
        self._awaited: _Task | None = None
        self._active = self._blocked = self._held = 0
        self._closed = False
        self._fault: BaseException | None = None
        self._threads: list[threading.Thread] = []

    def submit(self, task: _Task) -> None:
        """Fetch it when its turn comes; threads start as they are needed."""
        with self._lock:
            host = self._hosts.setdefault(task.host, _Host())
            self._queue(host, task)
            self._work.notify()
        if len(self._threads) <= min(self._options.threads, task.number + 1):
            thread = threading.Thread(target=self._run, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def wait(self, task: _Task) -> Item:
        """The item of `task`, fetched or refused."""
        if not task.done.is_set():
            with self._lock:
                self._awaited = task
                if self._blocked:
                    self._room.notify_all()
                    self._work.notify_all()
            task.done.wait()
        if self._fault is not None:
            raise self._fault
        if task.held:
            with self._lock:
                self._held -= task.held
                if self._blocked:
                    self._room.notify_all()
        return task.item

    def close(self) -> None:
        """Let the threads end; those in the middle of something notice when it breaks off."""
        with self._lock:
            self._closed = True
            self._work.notify_all()
            self._room.notify_all()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _queue(self, host: _Host, task: _Task) -> None:
        heapq.heappush(host.waiting, task)
        if host.waiting[0] is task:
            heapq.heappush(self._ready, (task.number, task.host))

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._attempt(task)
            except BaseException as error:  # a bug, told to whoever waits
                self._fault = error
                task.done.set()
                if self._awaited is not None:
                    self._awaited.done.set()
                return

    def _next(self) -> _Task | None:
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                self._wake(now)
                task = self._first(now)
                if task is not None:
                    return self._start(task, now)
                self._work.wait(max(0.0, self._later[0][0] - now) if self._later else None)
            return None

    def _wake(self, now: float) -> None:
        """Put back what waited long enough."""
        while self._later and self._later[0][0] <= now:
            _, _, name, task = heapq.heappop(self._later)
            host = self._hosts.setdefault(name, _Host())
            if task is not None:
                self._queue(host, task)
            elif host.waiting:
                heapq.heappush(self._ready, (host.waiting[0].number, name))

    def _first(self, now: float) -> _Task | None:
        """The earliest task whose host may be asked now; only the awaited one while others wait for room."""
        if self._blocked:
            task = self._awaited
            host = self._hosts.get(task.host) if task else None
            fits = host is not None and host.waiting and host.waiting[0] is task and host.not_before <= now
            return task if fits else None
        while self._ready and self._active < self._options.threads:
            number, name = heapq.heappop(self._ready)
            host = self._hosts.get(name)
            if host is None or not host.waiting or host.waiting[0].number != number:
                continue  # out of date
            if host.active >= self._options.per_host:
                continue  # comes back when one of them is done
            if host.not_before > now:
                heapq.heappush(self._later, (host.not_before, number, name, None))
                continue
            return host.waiting[0]
        return None

    def _start(self, task: _Task, now: float) -> _Task:
        host = self._hosts[task.host]
        heapq.heappop(host.waiting)
        host.active += 1
        self._active += 1
        if self._options.rate:
            host.not_before = now + 1 / self._options.rate
        if host.waiting:
            heapq.heappush(self._ready, (host.waiting[0].number, task.host))
        return task

    def _attempt(self, task: _Task) -> None:
        again: TryAgain | None = None
        try:
            task.item.data = self._get(task.item, lambda count: self._claim(task, count))
            task.item.size = len(task.item.data)
        except TryAgain as refusal:
            again = refusal
        except RejectedError as refusal:
            task.item.verdict = (refusal.reason, refusal.detail)
        now = time.monotonic()
        with self._lock:
            if again is not None:
                again = self._repeat(task, again, now)
            if again is not None or task.item.verdict is not None:
                task.item.data, task.item.size = None, 0
                self._held -= task.held
                task.held = 0
                if self._blocked:
                    self._room.notify_all()
            self._leave(task, now)
        if again is None:
            task.done.set()

    def _repeat(self, task: _Task, again: TryAgain, now: float) -> TryAgain | None:
        """Put the task off until it is worth trying again, or give it its verdict (None)."""
        asked = again.after or 0.0
        if task.tries >= self._options.retries or asked > self._options.max_wait:
            waits = f", asks to wait {asked:g} s" if asked else ""
            task.item.verdict = (again.reason, f"{again.detail}{waits} (tries: {task.tries + 1})")
            return None
        at = now + max(asked, backoff(task.tries, self._options.backoff))
        task.tries += 1
        heapq.heappush(self._later, (at, task.number, task.host, task))
        if asked:
            host = self._hosts[task.host]
            host.not_before = max(host.not_before, now + asked)
        return again

    def _leave(self, task: _Task, now: float) -> None:
        """Give up the turn at the host."""
        host = self._hosts[task.host]
        host.active -= 1
        self._active -= 1
        if host.waiting:
            heapq.heappush(self._ready, (host.waiting[0].number, task.host))
        elif not host.active and host.not_before <= now:
            del self._hosts[task.host]
        self._work.notify()

    def _claim(self, task: _Task, count: int) -> float:
        """Wait until `count` more bytes may be held; the seconds that took."""
        with self._lock:
            started = time.monotonic()
            if self._held + count > self._options.window and task is not self._awaited:
                self._blocked += 1
                self._work.notify_all()  # somebody may have to fetch the awaited one
                while self._held + count > self._options.window and task is not self._awaited and not self._closed:
                    self._room.wait()
                self._blocked -= 1
                if not self._blocked:
                    self._work.notify_all()
            if self._closed:
                raise RejectedError(Reason.CONNECTION, "ending")
            self._held += count
            task.held += count
            return time.monotonic() - started


def fetched(items: Iterable[Item], get: Get, host_of: Callable[[Item], str], options: WebOptions) -> Iterator[Item]:
    """`items` in their order, those with a `url` with their bytes (by `get`) or the verdict why they have none."""
    crew: Crew | None = None
    waiting: deque[_Task] = deque()
    held = number = 0
    try:
        for item in items:
            fetch = bool(item.url) and item.verdict is None
            if not fetch and not waiting:
                yield item
                continue
            task = _Task(item, number, host_of(item) if fetch else "", fetch)
            waiting.append(task)
            if fetch:
                crew = crew or Crew(get, options)
                crew.submit(task)
                number += 1
            else:
                held += len(item.data or b"")
            while waiting and (len(waiting) >= _AHEAD or held >= options.window or waiting[0].settled):
                task = waiting.popleft()
                held -= 0 if task.fetch else len(task.item.data or b"")
                yield crew.wait(task) if crew and task.fetch else task.item
        while waiting:
            task = waiting.popleft()
            yield crew.wait(task) if crew and task.fetch else task.item
    finally:
        if crew is not None:
            crew.close()
