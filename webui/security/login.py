"""The login page, logging in and logging out. Plain HTML without scripts or external files."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request
from starlette.datastructures import FormData
from starlette.responses import HTMLResponse, RedirectResponse, Response

from modules.accounts import SESSION_S
from modules.errors import NotLoggedIn, TooManyTries
from webui.i18n import Catalogue, language_of, t
from webui.security.auth import COOKIE, Visitors, address_of, visitor_of

TEMPLATE = Path(__file__).with_name("login.html")
OURS = re.compile(r"/(?![/\\])[^\\\s]*")
"""A path of this server, and no address of another one that looks like it."""
NO_STORE = {"cache-control": "no-store"}


def router(visitors: Visitors, catalogues: Mapping[str, Catalogue]) -> APIRouter:
    """``GET`` and ``POST /login``, ``POST /logout``."""
    routes = APIRouter()
    page = LoginPage(Template(TEMPLATE.read_text(encoding="utf-8")), catalogues)

    @routes.get("/login")
    async def form(request: Request, next: str = "") -> Response:
        """The login page; those who are in already are led on."""
        return _home(request, next) if visitor_of(request) else page(request, after=next)

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        """``username``, ``password`` and ``next``, the path to go to, as a form."""
        given = await request.form(max_files=0, max_fields=8)
        name, password, after = (_text(given, field) for field in ("username", "password", "next"))
        if visitors.accounts is None or not visitors.need_login():
            return _home(request, after)
        try:
            found = await asyncio.to_thread(visitors.accounts.log_in, name, password, address_of(request.scope))
        except (NotLoggedIn, TooManyTries) as error:
            answer = page(request, error.message, name=name, after=after, status=error.status)
            if error.retry_s:
                answer.headers["retry-after"] = str(error.retry_s)
            return answer
        secret = await asyncio.to_thread(visitors.accounts.open_session, found.name)
        home = _home(request, after)
        home.set_cookie(COOKIE, secret, max_age=SESSION_S, **_bounds(request))
        return home

    @routes.post("/logout")
    async def log_out(request: Request) -> Response:
        """End this session or, with ``everywhere`` in the form, all of the account's. Its streams end with it."""
        given = await request.form(max_files=0, max_fields=8)
        visitor = visitor_of(request)
        if visitors.accounts is not None and visitor is not None and not visitor.is_alone:
            if "everywhere" in given:
                await asyncio.to_thread(visitors.accounts.close_sessions, visitor.name)
            else:
                await asyncio.to_thread(visitors.accounts.close_session, visitor.session)
        answer = RedirectResponse(f"{_root(request)}/login", 303, NO_STORE)
        answer.delete_cookie(COOKIE, **_bounds(request))
        return answer

    return routes


@dataclass(frozen=True)
class LoginPage:
    """Renders the login page in the reader's language."""

    template: Template
    catalogues: Mapping[str, Catalogue]

    def __call__(
        self, request: Request, said: str = "", *, name: str = "", after: str = "", status: int = 200
    ) -> HTMLResponse:
        language = language_of(request.headers.get("accept-language", ""), self.catalogues)
        told: Callable[[str], str] = self.catalogues[language] if language else str
        words = {
            "lang": language or "en",
            "title": f"{told(t('Log in'))} · Reprise",
            "name_label": told(t("Name")),
            "password_label": told(t("Password")),
            "button": told(t("Log in")),
            "action": f"{_root(request)}/login",
            "name": name,
            "next": after,
        }
        html = {key: escape(value) for key, value in words.items()}
        sentence = told(said)
        html["said"] = f'<p role="alert">{escape(sentence[:1].upper() + sentence[1:])}</p>' if said else ""
        html["focus_name"], html["focus_password"] = ("", "autofocus") if name else ("autofocus", "")
        return HTMLResponse(self.template.substitute(html), status, NO_STORE)


def _home(request: Request, after: str) -> RedirectResponse:
    """Where to go after login: the path asked for, if it is one of ours."""
    wanted = after if OURS.fullmatch(after) and not urlsplit(after).netloc else "/"
    return RedirectResponse(f"{_root(request)}{wanted}", 303, NO_STORE)


def _bounds(request: Request) -> dict[str, Any]:
    """Cookie attributes: host-only, HttpOnly, SameSite, and Secure if the login came over TLS."""
    secure = request.url.scheme == "https"
    return {"path": _root(request) or "/", "httponly": True, "samesite": "lax", "secure": secure}


def _root(request: Request) -> str:
    return str(request.scope.get("root_path", ""))


def _text(given: FormData, field: str) -> str:
    value = given.get(field)
    return value if isinstance(value, str) else ""
