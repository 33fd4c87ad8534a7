"""TLS: a server that speaks it, and files that are no key and no certificate."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
import uvicorn
from fastapi import FastAPI

from modules.errors import UserError
from webui.security.tls import Tls, tls_of
from webui.server import listen

# Made for these tests; they open nothing.
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBnDCCAUGgAwIBAgIUB2A+ubPa346jxS0sCtMBlgh74f8wCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjAwMTM0NFoYDzIxMjYxMTAy
MDAxMzQ0WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQvQYYJaEB/4lCe5ORjocWprYrxTahSOLCOOKn1Vla106EZ+AhpkGbl
WRbVYVmlImzQ9JDq/WabnW8ViTnR9veEo28wbTAdBgNVHQ4EFgQU0YtsyIjN9b8d
OG38KTIXSh11xJ4wHwYDVR0jBBgwFoAU0YtsyIjN9b8dOG38KTIXSh11xJ4wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSQAwRgIhAL15lYS6J162a5bIeVTVvSH3rmkmW+ptC78Uoh38nUB9AiEA
8FvSVY372/21qPREKxaJT5aVdJk4zFCV7jHyvLfndag=
-----END CERTIFICATE-----
"""
KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgKB+eGehvQKmmC57/
ZSejS02papWtze6imNMLL73vSH6hRANCAAQvQYYJaEB/4lCe5ORjocWprYrxTahS
OLCOOKn1Vla106EZ+AhpkGblWRbVYVmlImzQ9JDq/WabnW8ViTnR9veE
-----END PRIVATE KEY-----
"""
ANOTHER_KEY = """-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgtxDmY0MXx5zcsxlm
TerSmYzVoI961esqqqWmEa+8gGuhRANCAARaXKnXWDfvda39YdoCxO2SPOBDH0Bt
rGvkmSnT+tP5eJyZEl/lWnRSwkB+a8Q+st1krlP9lDyzLdAgjed2gxhd
-----END PRIVATE KEY-----
"""
LOCKED_KEY = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgz1FVZNV96fQICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEAQIEENQQ9szytYM+mPwHVO9KTOoEgZCh
3J7SyvePzWqkn6psoN+4U2H6alWGjQJ0Nrfc1nzDLsFN1GNPVuIeISkSamVmuiUo
Al+S5FY2FF+fD+9cWIl9Mb40CGn4E3I6R3yfaTpMUjvTgNC0zJhbOgvsZssDt7+T
xrKen2XdvOBaf8NZnFKc2DciQgkKhLJapAtazo5nIDOZ2EXEi+/g59sl0axvvZQ=
-----END ENCRYPTED PRIVATE KEY-----
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = {"cert.pem": CERTIFICATE, "key.pem": KEY, "another.pem": ANOTHER_KEY, "locked.pem": LOCKED_KEY}
    for name, text in {**texts, "empty.pem": "", "broken.pem": KEY.replace("M", "N")}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("key", "certificate", "sentence"),
    [
        ("absent.pem", "cert.pem", "--tls-keyfile .* cannot be read .No such file or directory.; check the name"),
        ("key.pem", "absent.pem", "--tls-certfile .* cannot be read"),
        ("empty.pem", "cert.pem", "empty.pem holds no private key in PEM; --tls-keyfile takes a PEM file"),
        ("cert.pem", "cert.pem", "cert.pem holds no private key in PEM"),
        ("key.pem", "key.pem", "key.pem holds no certificate in PEM"),
        ("another.pem", "cert.pem", "the key in .*another.pem is another certificate's; it must fit"),
        ("locked.pem", "cert.pem", "the key in .*locked.pem is locked with a password; make one without: openssl"),
        ("broken.pem", "cert.pem", "the key in .*broken.pem cannot be used"),
        ("key.pem", "", "https needs --tls-certfile too; give both files"),
        ("", "cert.pem", "https needs --tls-keyfile too; give both files"),
    ],
)
def test_files_that_are_no_key_or_certificate_are_a_sentence(
    folder: Path, key: str, certificate: str, sentence: str
) -> None:
    with pytest.raises(UserError, match=sentence):
        tls_of(folder / key if key else None, folder / certificate if certificate else None)


def test_without_the_flags_there_is_no_tls(folder: Path) -> None:
    assert tls_of(None, None) is None
    assert tls_of(folder / "key.pem", folder / "cert.pem") == Tls(folder / "key.pem", folder / "cert.pem")


def test_a_server_with_both_files_speaks_tls(folder: Path) -> None:
    app = FastAPI()
    app.add_api_route("/scheme", lambda: "hello")
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        files = {"ssl_keyfile": str(folder / "key.pem"), "ssl_certfile": str(folder / "cert.pem")}
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **files))  # type: ignore[arg-type]
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        trusting = ssl.create_default_context(cadata=CERTIFICATE)
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusting, timeout=30)
        connection.request("GET", "/scheme")
        assert connection.getresponse().read() == b'"hello"'
        with socket.create_connection(("127.0.0.1", port), 30) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200" not in plain.recv(100)
        connection.close()
        server.should_exit = True
        thread.join(30)
