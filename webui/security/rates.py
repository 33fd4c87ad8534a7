"""How many requests an account may make of the APIs: ASGI middleware behind the guard, which knows the account."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Receive, Scope, Send

from modules.errors import UserError
from webui.security.auth import owner_of_scope
from webui.security.guard import path_of, refused

COUNTED = re.compile(r"/(api/v1|sdapi/v1)/(?!.*(cancel|skip|finish|interrupt|stop-after)$)")
"""Stopping what one began is never too much."""
MOST_ACCOUNTS = 10_000


class TooManyRequests(UserError):
    """An account asked for too much within a minute."""

    status = 429

    def __init__(self, per_minute: int, retry_s: int):
        super().__init__(f"this account may make {per_minute} requests a minute", hint=f"go on in {retry_s} s")
        self.retry_s = retry_s


@dataclass
class Bucket:
    """What is left of an account's minute, and when that was so."""

    left: float
    at: float


class Rates:
    """A token bucket for each account: a minute's requests at once, and then as they come back. Counts what is sent
    (POST), not what is looked at. Knows the accounts seen last.
    """

    def __init__(self, app: ASGIApp, *, per_minute: int, clock: Callable[[], float] = time.monotonic):
        self.app = app
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] != "GET" and COUNTED.match(path_of(scope)):
            wait = self.take(owner_of_scope(scope))
            if wait:
                return await refused(TooManyRequests(self.per_minute, wait))(scope, receive, send)
        return await self.app(scope, receive, send)

    def take(self, owner: str) -> int:
        """Take one request from an account's minute; the seconds to wait if there is none left, else 0."""
        now, rate = self._clock(), self.per_minute / 60
        bucket = self._buckets.pop(owner, None) or Bucket(self.per_minute, now)
        bucket.left, bucket.at = min(self.per_minute, bucket.left + (now - bucket.at) * rate), now
        self._buckets[owner] = bucket
        if len(self._buckets) > MOST_ACCOUNTS:
            self._buckets.popitem(last=False)
        if bucket.left < 1:
            return max(1, round((1 - bucket.left) / rate + 0.5))
        bucket.left -= 1
        return 0
