"""Publishes job events: a short log per job in memory, and followers on any event loop.

A follower is a wake-up flag and a number, not a thread and not a buffer: it reads the job's log when it gets round to
it. A slow one misses old steps, never an image or the end.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator

from modules.jobs.protocol import Json

Event = Json
"""JSON with ``type``; the hub adds ``job`` and ``seq``, which counts from 1 in each job."""

TERMINAL = frozenset({"done", "failed", "cancelled"})


class EventHub:
    """The event logs of all jobs in progress and of the last ``keep_finished``, each at most ``log_limit`` events
    long.
    """

    def __init__(self, *, log_limit: int = 256, keep_finished: int = 256):
        self._lock = threading.Lock()
        self._channels: dict[str, _Channel] = {}
        self._finished: deque[str] = deque()
        self._log_limit = log_limit
        self._keep_finished = keep_finished
        self._closed = False

    def publish(self, job_id: str, event: Event) -> Event:
        """Append an event to the job's log and wake its followers. Nothing is added after a terminal event.
        Thread-safe.
        """
        with self._lock:
            return self._publish(self._channel(job_id), event)

    def seed(self, job_id: str, event: Event, after: int = 0) -> None:
        """Publish an event only if the job's log is empty (or forgotten), numbered for a follower that has seen up
        to ``after``.
        """
        with self._lock:
            channel = self._channel(job_id)
            if channel.seq == 0:
                channel.seq = after
                self._publish(channel, event)

    def snapshot(self, job_id: str, after: int = 0) -> list[Event]:
        """The summary that a late follower gets first: position or start, the images, the latest step, the end."""
        with self._lock:
            channel = self._channels.get(job_id)
            return [] if channel is None else channel.summary(after)

    async def follow(self, job_id: str, after: int = 0, *, end_only: bool = False) -> AsyncIterator[Event]:
        """Yield the job's events with ``seq > after``: first a summary, then live ones; ends after a terminal event.

        An ``after`` from before a restart of the server (more than was ever published) starts from the beginning.
        ``end_only``: after the summary the follower sleeps until the end, which alone wakes it.
        """
        follower = _Follower(end_only)
        with self._lock:
            channel = self._channel(job_id)
            channel.followers.add(follower)
            seen = after if after <= channel.seq else 0
            events = channel.summary(seen)
            over = channel.over
        try:
            while True:
                for event in events:
                    yield event
                if over or self._closed:
                    return
                seen = events[-1]["seq"] if events else seen
                await follower.awake.wait()
                follower.awake.clear()
                with self._lock:
                    events = [event for event in channel.log if event["seq"] > seen]
                    over = channel.over
        finally:
            with self._lock:
                channel.followers.discard(follower)
                if channel.seq == 0 and not channel.followers:
                    self._channels.pop(job_id, None)

    def watched(self) -> set[str]:
        """The ids of jobs whose every event somebody follows."""
        with self._lock:
            return {
                job_id
                for job_id, channel in self._channels.items()
                if any(not follower.end_only for follower in channel.followers)
            }

    def close(self) -> None:
        """End all followers, because the server stops."""
        with self._lock:
            self._closed = True
            for channel in self._channels.values():
                channel.wake()

    def _channel(self, job_id: str) -> _Channel:
        return self._channels.setdefault(job_id, _Channel(job_id))

    def _publish(self, channel: _Channel, event: Event) -> Event:
        if channel.over:
            return channel.log[-1]
        event = channel.append(event, self._log_limit)
        channel.tell()
        if channel.over:
            self._finished.append(channel.job_id)
            if len(self._finished) > self._keep_finished:
                self._channels.pop(self._finished.popleft(), None)
        return event


class _Channel:
    """One job's log and its followers, guarded by the hub's lock."""

    def __init__(self, job_id: str):
        self.job_id = job_id
        self.log: list[Event] = []
        self.seq = 0
        self.over = False
        self.followers: set[_Follower] = set()

    def append(self, event: Event, limit: int) -> Event:
        self.seq += 1
        event = {**event, "job": self.job_id, "seq": self.seq}
        if "preview" in event:
            self._forget_preview()
        self.log.append(event)
        if len(self.log) > limit:
            steps = (i for i, old in enumerate(self.log) if old["type"] == "step")
            del self.log[next(steps, 0)]
        self.over = event["type"] in TERMINAL
        return event

    def summary(self, after: int) -> list[Event]:
        """The log since the job was last queued, with only the latest step."""
        queued = [event["seq"] for event in self.log if event["type"] == "queued"]
        steps = [event["seq"] for event in self.log if event["type"] == "step"]
        first, last_step = max(queued, default=0), max(steps, default=0)
        return [
            event
            for event in self.log
            if event["seq"] > after and event["seq"] >= first and (event["type"] != "step" or event["seq"] == last_step)
        ]

    def wake(self) -> None:
        """Wake all followers."""
        self.followers = {follower for follower in self.followers if follower.wake()}

    def tell(self) -> None:
        """Wake those followers whom the newest event concerns."""
        self.followers = {one for one in self.followers if (one.end_only and not self.over) or one.wake()}

    def _forget_preview(self) -> None:
        """Drop the preview of all but the newest event: images are large."""
        for i in range(len(self.log) - 1, -1, -1):
            if "preview" in self.log[i]:
                self.log[i] = {key: value for key, value in self.log[i].items() if key != "preview"}
                return


class _Follower:
    """A follower: a wake-up flag on its own event loop."""

    def __init__(self, end_only: bool = False) -> None:
        self.end_only = end_only
        self.awake = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def wake(self) -> bool:
        """Set the flag; False if the loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self.awake.set)
        except RuntimeError:  # closed
            return False
        return True
