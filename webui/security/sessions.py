"""Bounds Gradio's page sessions in number and memory.

A session keeps what a page's components are by now, where that is not what the page was built of. Gradio never forgets
one, and has it hold the whole page's description, for deep links: 1.3 MB and a tenth of a second for each name that a
client thinks of. Deep links are closed here (`guard.CLOSED`), no tab keeps `gr.State`, and a session that was forgotten
is made anew by the next event of its page, so little is lost with it; an extension's `gr.State` begins at its default.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from copy import copy
from typing import Any

from gradio.state_holder import SessionState, StateHolder

A_PERSON = 20
"""Sessions kept per account; without accounts, for the one person at this machine."""
ALL = 200
"""Sessions kept in all. A page whose components were filled takes 0.8 MB."""
IDLE = datetime.timedelta(minutes=10)
"""After its last event. Pages tell nobody that they are closed: a stream for that would hold one of a browser's six
connections for good."""


class Session(SessionState):  # type: ignore[misc]
    """A page session without its own copy of the page's configuration."""

    def __init__(self, blocks: Any):
        self.blocks_config = copy(blocks.default_config)
        self.config_values: dict[int, Any] = {}
        self.state_data: dict[int, Any] = {}
        self._state_ttl: dict[int, Any] = {}
        self.is_closed = False
        self.STATE_TTL_WHEN_CLOSED = 3600

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        """Do nothing: the copy would never be used."""

    def _update_value_in_config(self, key: int, value: Any) -> None:
        """Do nothing: the copy would never be used."""


class Sessions(StateHolder):  # type: ignore[misc]
    """The recently used sessions. An account's oldest one makes room for its new one, so that nobody can displace
    another's pages.
    """

    def __init__(self, whose: Callable[[str], str], *, a_person: int = A_PERSON, idle: datetime.timedelta = IDLE):
        """``whose``: the account that used a session's name first; "" where nobody is known."""
        super().__init__()
        self._whose = whose
        self._a_person = a_person
        self._idle = idle

    def take_over(self, mounted: Any) -> None:
        """Take over the sessions from the holder that Gradio created when it was mounted."""
        mounted.state_holder = self
        self.set_blocks(mounted.get_blocks())

    def __getitem__(self, session_id: str) -> SessionState:
        with self.lock:
            found = self.session_data.get(session_id)
            if found is None:
                self._make_room(session_id)
                found = self.session_data[session_id] = Session(self.blocks)
            self.session_data.move_to_end(session_id)
            self.time_last_used[session_id] = datetime.datetime.now()
        return found

    def delete_all_expired_state(self) -> None:
        """Delete expired sessions; called every second while the server runs."""
        super().delete_all_expired_state()
        before = datetime.datetime.now() - self._idle
        with self.lock:
            for name in [name for name, used in self.time_last_used.items() if used < before]:
                self._forget(name)

    def _make_room(self, session_id: str) -> None:
        owner = self._whose(session_id)
        own = [name for name in self.session_data if self._whose(name) == owner]
        for name in own[: max(len(own) + 1 - self._a_person, 0)]:
            self._forget(name)
        while len(self.session_data) >= self.capacity:
            self._forget(next(iter(self.session_data)))

    def _forget(self, session_id: str) -> None:
        self.session_data.pop(session_id, None)
        self.time_last_used.pop(session_id, None)
