"""Authentication: identifies a request's account by session cookie, token or basic auth."""

from __future__ import annotations

import asyncio
import base64
import binascii
import ipaddress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.types import Scope

from modules.accounts import ADMIN, LOCAL, Account, Accounts
from modules.errors import NotLoggedIn

COOKIE = "reprise_session"
IN_SCOPE = "reprise.visitor"
"""The key in the ASGI scope under which the guard stores the visitor."""


@dataclass(frozen=True)
class Visitor:
    """An authenticated visitor."""

    name: str
    role: str
    session: str = ""
    """The secret of the session, where a cookie showed one."""

    @property
    def is_admin(self) -> bool:
        return self.role == ADMIN

    @property
    def is_alone(self) -> bool:
        """Whether there are no accounts, so that all visitors are the one person at this machine."""
        return self.name == LOCAL


ALONE = Visitor(LOCAL, ADMIN)


class Visitors:
    """Authenticates requests. As long as there are no accounts, every visitor is the person at this machine, unless
    ``always`` is set: then nobody gets in without one.
    """

    def __init__(self, accounts: Accounts | None = None, *, always: bool = False):
        self.accounts = accounts
        self.always = always

    def need_login(self) -> bool:
        return self.always or (self.accounts is not None and self.accounts.any())

    async def of(self, scope: Scope) -> Visitor | None:
        """The visitor of a request; None if unknown. Raises `NotLoggedIn` or `TooManyTries` for wrong credentials."""
        if not self.need_login():
            return ALONE
        if self.accounts is None:
            return None
        headers = Headers(scope=scope)
        kind, _, value = headers.get("authorization", "").strip().partition(" ")
        if kind.lower() == "bearer":
            return _known(self.accounts.token(value.strip()))
        if kind.lower() == "basic":
            name, password = _decoded(value)
            return _known(await asyncio.to_thread(self.accounts.log_in, name, password, address_of(scope)))
        secret = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
        found = self.accounts.session(secret) if secret else None
        return Visitor(found.name, found.role, secret) if found else None

    def is_still_in(self, visitor: Visitor) -> bool:
        """Whether the visitor is still logged in; for streams, which may outlast the session."""
        if visitor.is_alone:
            return not self.need_login()
        if self.accounts is None:
            return False
        if visitor.session:
            return self.accounts.session(visitor.session) is not None
        return self.accounts.find(visitor.name) is not None


def visitor_of(request: Any) -> Visitor | None:
    """The visitor that the guard admitted; None on an open path without a login."""
    found = request.scope.get(IN_SCOPE)
    assert found is None or isinstance(found, Visitor)
    return found


def owner_of(request: Any) -> str:
    """Whose jobs a visitor sees: the account's name; without accounts all visitors are one person."""
    return owner_of_scope(request.scope)


def owner_of_scope(scope: Scope) -> str:
    """The same of a request's ASGI scope."""
    visitor = scope.get(IN_SCOPE)
    return visitor.name if isinstance(visitor, Visitor) else LOCAL


def is_at_this_machine(scope: Scope) -> bool:
    """Whether a request comes from a browser on this machine itself, under one of its own names. Behind a proxy it
    seems so of everybody: whoever grants a right by this excludes proxies (`Services.subpath`, ``trusted_proxies``).
    """
    name = urlsplit(f"//{Headers(scope=scope).get('host', '')}").hostname or ""
    forwarded = any(key.lower().startswith((b"x-forwarded", b"forwarded")) for key, _ in scope.get("headers", ()))
    return not forwarded and _is_loopback(address_of(scope)) and (name == "localhost" or _is_loopback(name))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def address_of(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "unknown"


def _known(account: Account | None) -> Visitor:
    if account is None:
        raise NotLoggedIn("the token is not known", hint="make one with: python3 app.py user token NAME")
    return Visitor(account.name, account.role)


def _decoded(value: str) -> tuple[str, str]:
    try:
        name, _, password = base64.b64decode(value.strip(), validate=True).decode("utf-8").partition(":")
    except (binascii.Error, ValueError):
        raise NotLoggedIn("the Authorization header cannot be read") from None
    return name, password
