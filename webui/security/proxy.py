"""Reverse proxies: restores the visitor's address, scheme and Host, and the path prefix."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.errors import UserError
from webui.security.auth import address_of

FORWARDED = ("forwarded", "x-forwarded-")


class Proxied:
    """The outermost ASGI middleware: applies X-Forwarded-* from trusted proxies, and sets ``root_path``.

    What others say in such headers is thrown away, for Gradio believes it. A proxy may take the prefix off or leave it
    on; behind this, paths have it and ``root_path`` names it, as ASGI wants.
    """

    def __init__(self, app: ASGIApp, *, subpath: str = "", trusted: Iterable[str] = ()):
        self.app = app
        self.root = subpath_of(subpath)
        self.trusted = tuple(network_of(text) for text in trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        scope = self._as_made(scope)
        if self.root and scope["path"] == self.root:  # relative addresses on the page need the slash
            await RedirectResponse(f"{self.root}/", 307)(scope, receive, send)
            return
        if self.root:
            if not scope["path"].startswith(f"{self.root}/"):
                scope["path"] = self.root + scope["path"]
                scope["raw_path"] = self.root.encode() + scope.get("raw_path", b"")
            scope["root_path"] = self.root
        await self.app(scope, receive, send)

    def _as_made(self, scope: Scope) -> Scope:
        told = Headers(scope=scope)
        kept = [pair for pair in scope["headers"] if not pair[0].decode("latin-1").lower().startswith(FORWARDED)]
        scope = {**scope, "headers": kept}
        if not self._is_trusted(address_of(scope)):
            return scope
        hops = [hop.strip() for hop in ", ".join(told.getlist("x-forwarded-for")).split(",") if hop.strip()]
        visitor = next((hop for hop in reversed(hops) if not self._is_trusted(hop)), hops[0] if hops else "")
        if visitor:
            scope["client"] = (visitor, 0)
        scheme = told.get("x-forwarded-proto", "").lower()
        if scheme in ("http", "https"):
            secure = {"http": "ws", "https": "wss"}[scheme]
            scope["scheme"] = secure if scope["type"] == "websocket" else scheme
        if name := told.get("x-forwarded-host"):
            scope["headers"] = [pair for pair in kept if pair[0].lower() != b"host"]
            scope["headers"].append((b"host", name.encode("latin-1")))
        return scope

    def _is_trusted(self, address: str) -> bool:
        return is_among(address, self.trusted)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_among(address: str, networks: Iterable[Network]) -> bool:
    """Whether ``address`` is a valid IP address in one of ``networks``."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def network_of(text: str) -> Network:
    """Parse an address or a network: 127.0.0.1, 10.0.0.0/8."""
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise UserError(
            f"{text!r} is no address of a proxy", hint="write 127.0.0.1 or 10.0.0.0/8", field="trusted-proxy"
        ) from None


def subpath_of(text: str) -> str:
    """Normalise a prefix: ``/pictures`` for "pictures", "/pictures" and "/pictures/"; "" for none."""
    name = text.strip("/")
    if not name:
        return ""
    if not all(part and part not in (".", "..") and part.isascii() and _is_plain(part) for part in name.split("/")):
        hint = "use letters, digits, - and _: --subpath pictures"
        raise UserError(f"{text!r} is no path to serve under", hint=hint, field="subpath")
    return f"/{name}"


def _is_plain(part: str) -> bool:
    return part.replace("-", "").replace("_", "").replace(".", "").replace("~", "").isalnum()
