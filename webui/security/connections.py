"""Limits idle connections: how long one may take to send its request, and how many of an address may wait.

uvicorn's clock runs between two requests alone. A connection that sends half a head, or goes on with a body after its
answer was given, would be held for ever, each with an open file of the server; this is before anyone is asked who they
are. A stream that lasts for hours is a request under way, and none of this.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from modules.accounts import network_of_client
from webui.security.proxy import Network, is_among

HEAD_S = 10.0
"""Timeout from the connection, or the end of the last answer, to the end of a request's head."""
MOST_WAITING = 64
"""Connections of an address (of an IPv6 network of 64 bits) that wait so. A browser opens six."""


class Waiting:
    """The connections without a request yet, by address. One too many closes the oldest. Those of a trusted proxy
    are not counted, for they belong to many visitors.
    """

    def __init__(self, trusted: Iterable[Network] = (), *, head_s: float = HEAD_S, most: int = MOST_WAITING):
        self.trusted = tuple(trusted)
        self.head_s = head_s
        self.most = most
        self._by_address: defaultdict[str, OrderedDict[TimedProtocol, None]] = defaultdict(OrderedDict)

    def add(self, protocol: TimedProtocol, address: str) -> None:
        if is_among(address, self.trusted):
            return
        waiting = self._by_address[network_of_client(address)]
        waiting[protocol] = None
        while len(waiting) > self.most:
            oldest, _ = waiting.popitem(last=False)
            oldest.hang_up()

    def drop(self, protocol: TimedProtocol, address: str) -> None:
        key = network_of_client(address)
        if key in self._by_address:
            self._by_address[key].pop(protocol, None)
            if not self._by_address[key]:
                del self._by_address[key]

    def count(self) -> int:
        return sum(map(len, self._by_address.values()))


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a timeout for the request head."""

    def __init__(self, waiting: Waiting, **facts: Any):
        super().__init__(**facts)
        self._waiting = waiting
        self._timer: asyncio.TimerHandle | None = None

    @property
    def _address(self) -> str:
        return self.client[0] if self.client else "unknown"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def hang_up(self) -> None:
        self._rest()
        if not self.transport.is_closing():
            self.transport.abort()

    def _look(self) -> None:
        """Start or stop the timer for a request head. Bytes that trickle in do not extend it."""
        under_way = self.cycle is not None and not self.cycle.response_complete
        handed_on = self.transport.get_protocol() is not self  # to a websocket
        if under_way or handed_on or self.transport.is_closing():
            self._rest()
        elif self._timer is None:
            self._timer = self.loop.call_later(self._waiting.head_s, self.hang_up)
            self._waiting.add(self, self._address)

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._waiting.drop(self, self._address)
