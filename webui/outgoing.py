"""Requests to other machines, to hosts that an administrator listed and to nobody else.

A name is resolved once and the connection goes to that address, so a second answer of the name server (DNS rebinding)
changes nothing. A name must not lead into a private network: whoever means such a machine lists its address. Each
redirect is judged like the first address, proxies of the environment are not asked, and size and time are bounded.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from modules.errors import UserError

CONNECT_S, WHOLE_S = 5.0, 30.0
REDIRECTS = 3
MAX_BYTES = 32 * 2**20
PORTS = {"http": 80, "https": 443}
CHUNK = 65536
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Resolve = Callable[[str, int], Sequence[str]]
"""The addresses of a name."""


def resolved(name: str, port: int) -> list[str]:
    """The addresses of a name, as the system has them; raises `OSError`."""
    return [str(found[4][0]) for found in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)]


@dataclass(frozen=True)
class Target:
    """Where a request goes."""

    parts: SplitResult
    host: str
    port: int
    address: str
    """To connect to."""

    @property
    def path(self) -> str:
        return (self.parts.path or "/") + (f"?{self.parts.query}" if self.parts.query else "")


@dataclass(frozen=True)
class Outgoing:
    """Sends requests to ``hosts``: each ``HOST`` (at its scheme's port) or ``HOST:PORT``."""

    hosts: Sequence[str]
    flag: str
    """That lists them, for messages."""
    field: str = "url"
    resolve: Resolve = resolved
    whole_s: float = WHOLE_S

    def target(self, url: str) -> Target:
        """Judge an address and resolve its host once; raises `UserError` in one sentence."""
        parts, host, port = self.checked(url)
        try:
            addresses = self.resolve(host, port)
        except OSError as error:
            raise self._error(f"{host} cannot be found", "check the address") from error
        literal = _address(host)
        for address in addresses:
            if literal is None and not _is_public(address):
                raise self._error(f"{host} leads into a private network", f"list its address itself with {self.flag}")
        if not addresses:
            raise self._error(f"{host} cannot be found", "check the address")
        return Target(parts, host, port, addresses[0])

    def checked(self, url: str) -> tuple[SplitResult, str, int]:
        """An address in its parts, its host and its port, as far as that can be judged without asking anybody."""
        try:
            parts = urlsplit(url)
            port, host = parts.port, (parts.hostname or "").rstrip(".")
        except ValueError as error:
            raise self._error("this is no address that can be used", "write https://HOST/PATH") from error
        if parts.scheme not in PORTS or not host or "@" in parts.netloc or any(ord(c) < 33 for c in url):
            raise self._error("this is no address that can be used", "write https://HOST/PATH")
        port = port or PORTS[parts.scheme]
        if not any(_same(allowed, host, port, PORTS[parts.scheme]) for allowed in self.hosts):
            raise self._error(f"{host} is not listed", f"an administrator may list it with {self.flag}")
        return parts, host, port

    def get(self, url: str, max_bytes: int = MAX_BYTES) -> bytes:
        """The body that lies at an address; raises `UserError`."""
        until = time.monotonic() + self.whole_s
        for _ in range(REDIRECTS + 1):
            target = self.target(url)
            status, headers, body = self._ask("GET", target, b"", {}, max_bytes, until)
            if status in (301, 302, 303, 307, 308) and headers.get("location"):
                url = urljoin(url, headers["location"])
                continue
            if status != 200:
                raise self._error(f"{target.host} answers with status {status}", "check the address")
            return body
        raise self._error("the address is redirected too often", "give the last one")

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send a body and give the status; redirects are not followed. Raises `UserError` where nobody answers."""
        until = time.monotonic() + self.whole_s
        return self._ask("POST", self.target(url), body, headers, CHUNK, until)[0]

    def _ask(
        self, method: str, target: Target, body: bytes, headers: Mapping[str, str], max_bytes: int, until: float
    ) -> tuple[int, Mapping[str, str], bytes]:
        connection = _Connection(target)
        try:
            connection.request(method, target.path, body or None, {"accept": "*/*", **headers})
            answer = connection.getresponse()
            parts, size = list[bytes](), 0
            while part := answer.read1(CHUNK):
                parts.append(part)
                size += len(part)
                if size > max_bytes:
                    raise self._error(
                        f"what {target.host} sends is larger than {max_bytes / 2**20:g} MB", "make it smaller"
                    )
                if time.monotonic() > until:
                    raise TimeoutError
            names = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, names, b"".join(parts)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._error(f"{target.host} does not answer as it should", "try again later") from error
        finally:
            connection.close()

    def _error(self, message: str, hint: str) -> UserError:
        return UserError(message, hint=hint, field=self.field)


class _Connection(http.client.HTTPConnection):
    """To the address that was judged, under the name that was asked for."""

    def __init__(self, target: Target):
        super().__init__(target.host, target.port, timeout=CONNECT_S)
        self._target = target

    def connect(self) -> None:
        raw = socket.create_connection((self._target.address, self._target.port), CONNECT_S)
        if self._target.parts.scheme == "https":
            raw = ssl.create_default_context().wrap_socket(raw, server_hostname=self._target.host)
        self.sock = raw


def _same(allowed: str, host: str, port: int, usual: int) -> bool:
    """Whether a listed host is this one.

    >>> _same("a.example", "A.example", 443, 443), _same("a.example", "a.example", 8080, 443)
    (True, False)
    >>> _same("[::1]:80", "::1", 80, 80)
    True
    """
    try:
        parts = urlsplit(f"//{allowed}" if allowed.count(":") < 2 or "[" in allowed else f"//[{allowed}]")
        name, listed = (parts.hostname or "").rstrip("."), parts.port or usual
    except ValueError:
        return False
    return name == host.lower() and listed == port


def _is_public(address: str) -> bool:
    """Whether an address is one of the internet's, whatever notation hides an IPv4 address in IPv6."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found in NAT64:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        else:
            found = found.ipv4_mapped or found.sixtofour or found
    return found.is_global and not found.is_multicast


def _address(host: str) -> object | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
