"""A client of a Reprise server in one file, which needs nothing but Python: submit, follow, fetch.

client = Client("http://127.0.0.1:7860")
job = client.submit({"prompt": "a red fox in the snow", "steps": 20, "seed": 1})
for event in client.follow(job):
    print(event["type"])
for image in client.fetch(job):
    Path(image.name).write_bytes(image.data)
"""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import quote, urlsplit

ENDS = frozenset({"done", "failed", "cancelled"})
TRIES = 7
"""So often a stream that breaks off is taken up again before anything new was told."""
RETRY_S = 0.5
"""Before the first of these tries; each pause is twice the last, a minute in all: a server may start anew meanwhile."""


class ServerError(Exception):
    """What the server says of a request that it does not do, or why it cannot be reached."""

    def __init__(self, message: str, *, status: int = 0, field: str = ""):
        super().__init__(message)
        self.status = status
        """0: there was no answer."""
        self.field = field


@dataclass(frozen=True)
class FetchedImage:
    """An image of a job, as its file was saved."""

    name: str
    data: bytes
    seed: int | None = None
    infotext: str = ""


class Client:
    """A server at ``url``. ``token``, where there are accounts: one of ``app.py user token NAME``."""

    def __init__(self, url: str, *, token: str = "", timeout_s: float = 60.0):
        if urlsplit(url).scheme not in ("http", "https"):
            raise ServerError(f"{url} is no address of a server; write it as in http://127.0.0.1:7860")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self._token = token

    def submit(self, params: Mapping[str, Any], *, kind: str = "generate", key: str = "", **more: Any) -> str:
        """Queue a job and give its number. ``key``: sent again with it, the request is one; ``more``: what other kinds
        of jobs take, as in ``inputs=[...]``."""
        headers = {"Idempotency-Key": key} if key else {}
        told = self.ask("/api/v1/jobs", {"kind": kind, "params": dict(params), **more}, headers)
        return str(told["id"])

    def follow(self, job: str, after: str = "") -> Iterator[dict[str, Any]]:
        """The events of a job to its end, each with its ``id``. A stream that breaks off is taken up where it was, and
        told from the beginning where the server started anew meanwhile. ``after``: the id of the last that was read."""
        tries = 0
        while True:
            try:
                for event in self._events(job, after):
                    after, tries = str(event["id"]), 0
                    yield event
                    if event["type"] in ENDS:
                        return
                lost = "the server ended the stream"
            except (OSError, HTTPException) as error:
                lost = str(error)
            except ServerError as error:
                if error.status:
                    raise
                lost = str(error)
            tries += 1
            if tries > TRIES:
                raise ServerError(f"the events of job {job} broke off: {lost}")
            time.sleep(RETRY_S * 2 ** (tries - 1))

    def fetch(self, job: str) -> list[FetchedImage]:
        """The images that a job has made so far."""
        return [
            FetchedImage(image["name"], self._read(image["url"]), image.get("seed"), image.get("infotext", ""))
            for image in self.state(job)["output"]["images"]
        ]

    def state(self, job: str) -> dict[str, Any]:
        """How far a job is: ``state``, ``position``, ``progress``, ``output``, ``error``."""
        return self.ask(f"/api/v1/jobs/{quote(job)}")

    def cancel(self, job: str, *, keep: bool = False) -> dict[str, Any]:
        """Stop a job. Its finished images stay, and with ``keep`` the image at hand is made from what there is."""
        return self.ask(f"/api/v1/jobs/{quote(job)}/cancel{'?keep=true' if keep else ''}", {})

    def finish(self, job: str) -> dict[str, Any]:
        """Stop a job behind the image at hand, or the batch that it is in."""
        return self.ask(f"/api/v1/jobs/{quote(job)}/finish", {})

    def skip(self, job: str) -> dict[str, Any]:
        """The image at hand is made from what there is, and the next one follows."""
        return self.ask(f"/api/v1/jobs/{quote(job)}/skip", {})

    def models(self) -> dict[str, Any]:
        """``checkpoints``, the default first, and ``vaes``."""
        return self.ask("/api/v1/models")

    def modifiers(self) -> list[dict[str, Any]]:
        """The modifiers of extensions that a request may name: ``name``, ``label``, ``options`` with their schemas."""
        return list(self.ask("/api/v1/modifiers")["modifiers"])

    def put(self, picture: bytes) -> str:
        """Store a picture that jobs can start from; its name for ``init.image``."""
        return str(self.ask("/api/v1/inputs", {"image": base64.b64encode(picture).decode("ascii")})["key"])

    def ask(
        self, path: str, values: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """What a route answers, as JSON; with ``values`` they are posted. Raises `ServerError`."""
        data = None if values is None else json.dumps(values).encode()
        with self._open(path, data, headers or {}) as answer:
            found = json.load(answer)
        if not isinstance(found, dict):
            raise ServerError(f"{self.url}{path} answered no object; is it a Reprise server?")
        return found

    def _read(self, path: str) -> bytes:
        with self._open(path, None, {}) as answer:
            return answer.read()

    def _events(self, job: str, after: str) -> Iterator[dict[str, Any]]:
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
        number = ""
        with self._open(f"/api/v1/jobs/{quote(job)}/events", None, headers) as answer:
            for line in answer:
                if line.startswith(b"id: "):
                    number = line[4:].strip().decode()
                elif line.startswith(b"data: "):
                    yield {**json.loads(line[6:]), "id": number}

    def _open(self, path: str, data: bytes | None, headers: Mapping[str, str]) -> HTTPResponse:
        own = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        own |= {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + path, data, {**own, **headers})
        try:
            answer = urllib.request.urlopen(request, timeout=self.timeout_s)
        except urllib.error.HTTPError as error:
            raise _refused(error) from error
        except urllib.error.URLError as error:
            raise ServerError(f"{self.url} cannot be reached: {error.reason}") from error
        assert isinstance(answer, HTTPResponse)
        return answer


def _refused(error: urllib.error.HTTPError) -> ServerError:
    try:
        told = json.loads(error.read())
        return ServerError(str(told["detail"]), status=error.code, field=str(told.get("field", "")))
    except (ValueError, LookupError, TypeError, OSError):
        return ServerError(f"the server answered {error.code}", status=error.code)
