"""A SQLite database file: opened, migrated, and used in transactions."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modules.errors import OutputError, RepriseError, UserError

log = logging.getLogger(__name__)

WAYS_OUT = {
    sqlite3.SQLITE_BUSY: "another program uses it; try again in a moment",
    sqlite3.SQLITE_READONLY: "make the file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "make the file and its folder writable",
    sqlite3.SQLITE_IOERR: "look whether the disk is in order, and try again",
    sqlite3.SQLITE_CORRUPT: "stop the program and bring the file back from a copy, or move it away",
}


class Database:
    """One connection that any thread may use. ``what`` names the file in messages: "the queue's database"."""

    def __init__(self, path: Path, migrations: Sequence[str], what: str):
        self.path = path
        self.what = f"{what} {path.name}"
        self._lock = threading.Lock()
        try:
            self._db = self._open(migrations)
        except sqlite3.Error as error:
            raise OutputError(
                f"{self.what} cannot be opened: {error}", hint="move the file away to start with an empty one"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the block as one transaction: all of it takes effect, or nothing."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    self._roll_back()
                    raise
            except sqlite3.Error as error:
                raise self._silent(error) from error
            except (OverflowError, UnicodeEncodeError) as error:
                raise _unheard(error) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Run queries only: does not wait for another process that writes."""
        with self._lock:
            try:
                yield self._db
            except sqlite3.Error as error:
                raise self._silent(error) from error
            except (OverflowError, UnicodeEncodeError) as error:
                raise _unheard(error) from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _roll_back(self) -> None:
        """Roll back, unless SQLite did so itself (disk full or failed), so that the first error is the one reported."""
        if self._db.in_transaction:
            try:
                self._db.execute("ROLLBACK")
            except sqlite3.Error as error:
                log.warning("%s: %s", self.what, error)

    def _silent(self, error: sqlite3.Error) -> OutputError:
        code = error.sqlite_errorcode & 0xFF if hasattr(error, "sqlite_errorcode") else 0  # the low byte is the kind
        if code == sqlite3.SQLITE_FULL:
            return OutputError(
                f"there is no room left for {self.what}", hint="free some space and try again", place=self.path.parent
            )
        hint = WAYS_OUT.get(code, "see that the disk has room and that the file can be written")
        return OutputError(f"{self.what} does not answer: {error}", hint=hint)

    def _open(self, migrations: Sequence[str]) -> sqlite3.Connection:
        """Open the file and apply its missing migrations; ``PRAGMA user_version`` counts those it has."""
        db = sqlite3.connect(self.path, timeout=5, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing; only a power cut may cost the last transactions.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA foreign_keys = ON")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > len(migrations):
            db.close()
            raise RepriseError(
                f"{self.what} was written by a newer version of this program",
                hint="update the program, or move the file away to start with an empty one",
            )
        for number, script in enumerate(migrations[version:], start=version + 1):
            db.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")
        return db


def _unheard(error: OverflowError | UnicodeEncodeError) -> UserError:
    """The error for a value that SQLite cannot store: an integer of more than 64 bits, a text with a lone surrogate."""
    if isinstance(error, OverflowError):
        return UserError("a number is larger than any that is kept here", hint="use a smaller one")
    return UserError("a text holds half a character, which cannot be kept", hint="type it anew")
