"""Accounts, login sessions and API tokens, stored in SQLite.

A password is kept as scrypt's hash of it. Sessions and tokens are 256 random bits each, of which the file keeps the
SHA-256: whoever reads the file can log in with nothing that is in it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import re
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from modules.errors import NotFound, NotLoggedIn, TooManyTries, UserError
from modules.storage.database import Database

ADMIN, USER = "admin", "user"
ROLES = (ADMIN, USER)
LOCAL = "local"
"""The owner of everything as long as there are no accounts; no account can have this name."""

SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P = 15, 8, 3
"""32 MiB and about 0.3 s of CPU per attempt: one of the parameter sets that OWASP's password cheat sheet recommends."""
HASHING_AT_ONCE = 2
MIN_PASSWORD, MAX_PASSWORD = 8, 1024
SESSION_S = 30 * 86400
SESSIONS_KEPT = 50
"""Sessions kept per account; the oldest are dropped."""
TRIES, TRIES_S = 10, 300.0
KNOWN_S = 600.0
"""How long a verified password is remembered without hashing it again: scripts send theirs with every request."""
TOKEN_PREFIX = "rp_"
NAME = re.compile(r"[^\W_][\w.-]{0,31}")

MIGRATIONS = (
    """
    CREATE TABLE users (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL,
        key TEXT NOT NULL UNIQUE,
        role TEXT NOT NULL,
        password TEXT NOT NULL,
        created REAL NOT NULL
    );
    CREATE TABLE sessions (
        hash TEXT PRIMARY KEY,
        user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        created REAL NOT NULL
    );
    CREATE TABLE tokens (
        hash TEXT PRIMARY KEY,
        user INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
        created REAL NOT NULL
    );
    CREATE INDEX sessions_of_user ON sessions (user);
    CREATE INDEX tokens_of_user ON tokens (user);
    """,
)
"""Applied in order. Never edit one that was released: add the next."""


@dataclass(frozen=True)
class Account:
    """A person who may log in. Jobs and pictures belong to ``name``."""

    name: str
    role: str
    created: float
    """Seconds since the epoch."""

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN


class Tries:
    """Counter of recent failed logins, by address and by account. In memory: a restart forgets them."""

    def __init__(self, limit: int = TRIES, window_s: float = TRIES_S, clock: Callable[[], float] = time.monotonic):
        self.limit = limit
        self.window_s = window_s
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, deque[float]] = {}

    def begin(self, *keys: str) -> None:
        """Count an attempt as failed before it is checked, so that parallel attempts cannot slip through; raise at the
        limit.
        """
        now = self._clock()
        with self._lock:
            self._forget(now)
            wait_s = max((self._failed[key][0] + self.window_s - now for key in keys if self._is_full(key)), default=0)
            if wait_s > 0:
                raise TooManyTries(int(wait_s) + 1)
            for key in keys:
                self._failed.setdefault(key, deque(maxlen=self.limit)).append(now)

    def forgive(self, *keys: str) -> None:
        """Take back the last failure: the attempt turned out to be right."""
        with self._lock:
            for key in keys:
                if self._failed.get(key):
                    self._failed[key].pop()

    def _is_full(self, key: str) -> bool:
        return len(self._failed.get(key, ())) >= self.limit

    def _forget(self, now: float) -> None:
        for key, times in list(self._failed.items()):
            while times and times[0] <= now - self.window_s:
                times.popleft()
            if not times:
                del self._failed[key]


class Accounts:
    """The accounts in one file, which several processes may have open: the server and the ``user`` command."""

    def __init__(self, path: Path, tries: Tries | None = None):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._db = Database(path, MIGRATIONS, "the accounts' database")
        self._tries = tries or Tries()
        self._hashing = threading.BoundedSemaphore(HASHING_AT_ONCE)
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._nobody = hash_password(secrets.token_hex(16))

    # -- the accounts

    def any(self) -> bool:
        with self._db.reading() as db:
            return db.execute("SELECT 1 FROM users LIMIT 1").fetchone() is not None

    def all(self) -> list[Account]:
        """All accounts, sorted by name."""
        with self._db.reading() as db:
            return [_account(row) for row in db.execute("SELECT * FROM users ORDER BY key")]

    def find(self, name: str) -> Account | None:
        with self._db.reading() as db:
            row = db.execute("SELECT * FROM users WHERE key = ?", (_key(name),)).fetchone()
            return _account(row) if row else None

    def add(self, name: str, password: str, role: str = USER) -> Account:
        """Create an account. The first one becomes an administrator."""
        name = unicodedata.normalize("NFKC", name)
        if not NAME.fullmatch(name) or _key(name) == LOCAL:
            raise UserError(
                f"{name!r} cannot be the name of an account",
                hint="use up to 32 letters, digits, dots and hyphens; 'local' is taken",
                field="name",
            )
        if role not in ROLES:
            raise UserError(f"no role named {role!r}", hint=f"there are {' and '.join(ROLES)}", field="role")
        hashed = hash_password(_judged(password))
        with self._db.transaction() as db:
            if db.execute("SELECT 1 FROM users WHERE key = ?", (_key(name),)).fetchone():
                raise UserError(f"there is an account {name} already", hint="choose another name", field="name")
            if not db.execute("SELECT 1 FROM users LIMIT 1").fetchone():
                role = ADMIN
            db.execute(
                "INSERT INTO users (name, key, role, password, created) VALUES (?, ?, ?, ?, ?)",
                (name, _key(name), role, hashed, time.time()),
            )
            return _account(db.execute("SELECT * FROM users WHERE key = ?", (_key(name),)).fetchone())

    def remove(self, name: str) -> None:
        """Delete an account with its sessions and tokens. Its jobs and images stay under its name."""
        with self._db.transaction() as db:
            _row(db, name)
            db.execute("DELETE FROM users WHERE key = ?", (_key(name),))

    def set_password(self, name: str, password: str) -> None:
        """Change a password, ending all sessions and tokens of the account."""
        hashed = hash_password(_judged(password))
        with self._db.transaction() as db:
            user = _row(db, name)["id"]
            db.execute("UPDATE users SET password = ? WHERE id = ?", (hashed, user))
            db.execute("DELETE FROM sessions WHERE user = ?", (user,))
            db.execute("DELETE FROM tokens WHERE user = ?", (user,))

    # -- showing who one is

    def log_in(self, name: str, password: str, address: str) -> Account:
        """Return the account with that name and password. `NotLoggedIn` is raised with the same text after the same
        time for an unknown name and for a wrong password; `TooManyTries` after ten failures in five minutes from an
        address or for an account.
        """
        with self._db.reading() as db:
            row = db.execute("SELECT * FROM users WHERE key = ?", (_key(name),)).fetchone()
        stored = str(row["password"]) if row else self._nobody
        proof = hmac.digest(self._secret, "\0".join((_key(name), password, stored)).encode(), "sha256")
        if row and self._is_known(proof):
            return _account(row)
        keys = f"address {network_of_client(address)}", f"account {_key(name)}"
        self._tries.begin(*keys)
        with self._hashing:
            right = is_password(password, stored)
        if not (right and row):
            raise NotLoggedIn("the name or the password is not right")
        self._tries.forgive(*keys)
        self._remember(proof)
        return _account(row)

    def open_session(self, name: str) -> str:
        """Create a session of `SESSION_S` seconds and return its secret, which `session` accepts."""
        secret, now = secrets.token_urlsafe(32), time.time()
        with self._db.transaction() as db:
            user = _row(db, name)["id"]
            db.execute("DELETE FROM sessions WHERE created < ?", (now - SESSION_S,))
            db.execute("INSERT INTO sessions VALUES (?, ?, ?)", (_hashed(secret), user, now))
            db.execute(
                "DELETE FROM sessions WHERE user = ? AND hash NOT IN"
                " (SELECT hash FROM sessions WHERE user = ? ORDER BY created DESC LIMIT ?)",
                (user, user, SESSIONS_KEPT),
            )
        return secret

    def session(self, secret: str) -> Account | None:
        """The account of a session's secret; None if it has ended."""
        return self._owner("sessions", secret, time.time() - SESSION_S)

    def close_session(self, secret: str) -> None:
        with self._db.transaction() as db:
            db.execute("DELETE FROM sessions WHERE hash = ?", (_hashed(secret),))

    def close_sessions(self, name: str) -> None:
        """End all sessions of an account, on all devices."""
        with self._db.transaction() as db:
            db.execute("DELETE FROM sessions WHERE user = ?", (_row(db, name)["id"],))

    def new_token(self, name: str) -> str:
        """Create an API token and return it; only its hash is stored. Valid until the password changes or the account
        is removed.
        """
        secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
        with self._db.transaction() as db:
            db.execute("INSERT INTO tokens VALUES (?, ?, ?)", (_hashed(secret), _row(db, name)["id"], time.time()))
        return secret

    def token(self, secret: str) -> Account | None:
        return self._owner("tokens", secret, 0.0)

    def close(self) -> None:
        self._db.close()

    def _owner(self, table: str, secret: str, since: float) -> Account | None:
        query = f"SELECT users.* FROM {table} JOIN users ON users.id = user WHERE hash = ? AND {table}.created >= ?"
        with self._db.reading() as db:
            row = db.execute(query, (_hashed(secret), since)).fetchone()
        return _account(row) if row else None

    def _is_known(self, proof: bytes) -> bool:
        return self._known.get(proof, 0.0) > time.monotonic()

    def _remember(self, proof: bytes) -> None:
        self._known[proof] = time.monotonic() + KNOWN_S
        while len(self._known) > 256:
            self._known.popitem(last=False)


def hash_password(password: str) -> str:
    """Hash a password with scrypt: ``scrypt$log_n$r$p$salt$hash``."""
    salt = secrets.token_bytes(16)
    numbers = (SCRYPT_LOG_N, SCRYPT_R, SCRYPT_P)
    digest = _scrypt(password, salt, *numbers)
    return "$".join(("scrypt", *map(str, numbers), *(base64.b64encode(part).decode() for part in (salt, digest))))


def is_password(password: str, stored: str) -> bool:
    """Whether a password matches the ``stored`` hash, compared in constant time."""
    _, log_n, r, p, salt, digest = stored.split("$")
    found = _scrypt(password, base64.b64decode(salt), int(log_n), int(r), int(p))
    return hmac.compare_digest(found, base64.b64decode(digest))


def _scrypt(password: str, salt: bytes, log_n: int, r: int, p: int) -> bytes:
    # maxmem: OpenSSL's own limit is 32 MiB, which the setting above just exceeds.
    text = unicodedata.normalize("NFC", password[:MAX_PASSWORD]).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=2**log_n, r=r, p=p, maxmem=2**27, dklen=32)


def _judged(password: str) -> str:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise UserError(f"a password has at least {MIN_PASSWORD} characters", hint="four random words make a good one")
    return password


def _hashed(secret: str) -> str:
    """SHA-256 of a secret. Enough for 256 random bits; passwords need scrypt."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def _key(name: str) -> str:
    """The name in the form in which names are compared: names that look alike are equal."""
    return unicodedata.normalize("NFKC", name).casefold()


def network_of_client(address: str) -> str:
    """The address or, for IPv6, its /64 network, since one client has all of it."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)


def _row(db: sqlite3.Connection, name: str) -> sqlite3.Row:
    row: sqlite3.Row | None = db.execute("SELECT * FROM users WHERE key = ?", (_key(name),)).fetchone()
    if row is None:
        raise NotFound(f"there is no account {name}", hint="list them with: python3 app.py user list", field="name")
    return row


def _account(row: sqlite3.Row) -> Account:
    return Account(row["name"], row["role"], row["created"])
