"""Accounts: what is kept of a secret, who is let in, and how often a stranger may try."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules import accounts as users
from modules.accounts import Accounts, Tries, hash_password, is_password
from modules.errors import NotFound, NotLoggedIn, TooManyTries, UserError

PASSWORD = "correct horse"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(autouse=True)
def in_haste(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests hash a hundred passwords; `test_a_password_is_kept_as_its_scrypt_hash` has the true parameters."""
    monkeypatch.setattr(users, "SCRYPT_LOG_N", 4)


@pytest.fixture
def accounts(tmp_path: Path, clock: Clock) -> Iterator[Accounts]:
    made = Accounts(tmp_path / "users.db", Tries(clock=clock))
    yield made
    made.close()


def wrong(accounts: Accounts, name: str = "alice", address: str = "10.0.0.1") -> None:
    with pytest.raises(NotLoggedIn):
        accounts.log_in(name, "wrong password", address)


def test_the_first_account_is_an_admins_and_the_others_are_not(accounts: Accounts) -> None:
    assert not accounts.any()
    assert accounts.add("alice", PASSWORD).is_admin
    assert not accounts.add("bob", PASSWORD).is_admin
    assert [(found.name, found.role) for found in accounts.all()] == [("alice", "admin"), ("bob", "user")]
    assert accounts.any()


@pytest.mark.parametrize("name", ["", "local", "Local", "a:b", "a b", "../x", "-x", "a" * 33, "a\nb", "<b>"])
def test_names_that_would_do_harm_are_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(UserError, match="cannot be the name of an account"):
        accounts.add(name, PASSWORD)


def test_names_that_look_the_same_are_the_same(accounts: Accounts) -> None:
    accounts.add("Zoë", PASSWORD)
    with pytest.raises(UserError, match="already"):
        accounts.add("zoe\u0308", PASSWORD)
    assert accounts.log_in("ZOË", PASSWORD, "a").name == "Zoë"


def test_a_short_password_is_refused(accounts: Accounts) -> None:
    with pytest.raises(UserError, match="at least 8 characters"):
        accounts.add("alice", "1234567")


def test_a_password_is_kept_as_its_scrypt_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the standard library called by hand, with the parameters that the documentation states."""
    monkeypatch.undo()
    kind, log_n, r, p, salt, digest = hash_password(PASSWORD).split("$")
    assert (kind, log_n, r, p) == ("scrypt", "15", "8", "3")
    salt_bytes = base64.b64decode(salt)
    assert len(salt_bytes) == 16
    expected = hashlib.scrypt(PASSWORD.encode(), salt=salt_bytes, n=32768, r=8, p=3, maxmem=2**27, dklen=32)
    assert base64.b64decode(digest) == expected
    assert hash_password(PASSWORD) != hash_password(PASSWORD)
    assert is_password(PASSWORD, hash_password(PASSWORD))
    assert not is_password(PASSWORD + " ", hash_password(PASSWORD))


def test_the_file_holds_no_secret_and_is_its_owners_alone(accounts: Accounts, tmp_path: Path) -> None:
    accounts.add("alice", PASSWORD)
    secrets = (PASSWORD, accounts.open_session("alice"), accounts.new_token("alice"))
    accounts.close()
    data = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"alice" in data
    assert not [secret for secret in secrets if secret.encode() in data]
    assert (tmp_path / "users.db").stat().st_mode & 0o077 == 0


def test_a_session_ends_when_it_is_closed_the_password_changes_or_the_account_goes(accounts: Accounts) -> None:
    accounts.add("alice", PASSWORD)
    first, second = accounts.open_session("alice"), accounts.open_session("alice")
    assert len(base64.urlsafe_b64decode(first + "=")) == 32
    accounts.close_session(first)
    assert accounts.session(first) is None
    assert accounts.session(second) == accounts.find("alice")
    accounts.close_sessions("alice")
    assert accounts.session(second) is None

    third, token = accounts.open_session("alice"), accounts.new_token("alice")
    assert accounts.token(token) == accounts.find("alice")
    assert accounts.session(token) is None
    assert accounts.token(third) is None
    accounts.set_password("alice", "another password")
    assert accounts.session(third) is None
    assert accounts.token(token) is None
    wrong(accounts)
    assert accounts.log_in("alice", "another password", "a").name == "alice"

    fourth, token = accounts.open_session("alice"), accounts.new_token("alice")
    accounts.remove("alice")
    assert accounts.session(fourth) is None
    assert accounts.token(token) is None
    with pytest.raises(NotFound, match="no account alice"):
        accounts.open_session("alice")


def test_a_session_lasts_thirty_days(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    accounts.add("alice", PASSWORD)
    secret, now = accounts.open_session("alice"), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 30 * 86400 - 60)
    assert accounts.session(secret) is not None
    monkeypatch.setattr(time, "time", lambda: now + 30 * 86400 + 60)
    assert accounts.session(secret) is None


def test_the_eleventh_try_in_five_minutes_is_refused_even_with_the_right_password(
    accounts: Accounts, clock: Clock
) -> None:
    accounts.add("alice", PASSWORD)
    for number in range(10):
        wrong(accounts, name=f"nobody{number}")
        clock.now += 1
    with pytest.raises(TooManyTries) as refused:
        accounts.log_in("alice", PASSWORD, "10.0.0.1")
    assert refused.value.status == 429
    assert 280 <= refused.value.retry_s <= 300
    assert accounts.log_in("alice", PASSWORD, "10.0.0.2").name == "alice"  # another address
    clock.now += 300
    assert accounts.log_in("alice", PASSWORD, "10.0.0.1").name == "alice"


def test_an_account_is_locked_from_all_addresses_too(accounts: Accounts) -> None:
    accounts.add("alice", PASSWORD)
    for number in range(10):
        wrong(accounts, address=f"10.0.1.{number}")
    with pytest.raises(TooManyTries):
        accounts.log_in("ALICE", PASSWORD, "10.0.2.1")


def test_logins_that_succeed_are_not_counted(accounts: Accounts) -> None:
    accounts.add("alice", PASSWORD)
    for number in range(12):
        accounts.add(f"user{number}", PASSWORD)
        accounts.log_in(f"user{number}", PASSWORD, "10.0.0.1")


def test_an_ipv6_client_has_one_count_for_its_whole_network(clock: Clock) -> None:
    assert users.network_of_client("2001:db8::1") == users.network_of_client("2001:db8::ffff") == "2001:db8::/64"
    assert users.network_of_client("2001:db8:0:1::1") != users.network_of_client("2001:db8::1")
    assert users.network_of_client("10.0.0.1") != users.network_of_client("10.0.0.2")


def test_an_unknown_name_costs_as_much_as_a_wrong_password(accounts: Accounts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, not timed: both hash once, with the same parameters, and say the same."""
    accounts.add("alice", PASSWORD)
    calls: list[tuple[int, ...]] = []
    real = users._scrypt

    def counted(password: str, salt: bytes, *numbers: int) -> bytes:
        calls.append(numbers)
        return real(password, salt, *numbers)

    monkeypatch.setattr(users, "_scrypt", counted)
    said = set()
    for name in ("alice", "mallory"):
        with pytest.raises(NotLoggedIn) as error:
            accounts.log_in(name, "wrong password", "a")
        said.add(str(error.value))
    assert calls == [(4, 8, 3), (4, 8, 3)]
    assert len(said) == 1


def test_a_script_that_shows_its_password_each_time_is_hashed_once(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.add("alice", PASSWORD)
    accounts.log_in("alice", PASSWORD, "a")
    monkeypatch.setattr(users, "is_password", lambda *_: pytest.fail("hashed again"))
    assert accounts.log_in("alice", PASSWORD, "a").name == "alice"
    monkeypatch.undo()
    accounts.set_password("alice", "another password")
    wrong(accounts)
    with pytest.raises(NotLoggedIn):
        accounts.log_in("alice", PASSWORD, "a")  # what was known is not known of the new password
