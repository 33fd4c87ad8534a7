"""TLS from two files, checked before the server starts, so that a wrong one gives a clear error."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from modules.errors import UserError

KEY, CERTIFICATE = "keyfile", "certfile"
CONTENTS = {KEY: (b"PRIVATE KEY-----", "private key"), CERTIFICATE: (b"-----BEGIN CERTIFICATE-----", "certificate")}


@dataclass(frozen=True)
class Tls:
    """The server's key and certificate chain, both PEM."""

    keyfile: Path
    certfile: Path


def tls_of(keyfile: Path | None, certfile: Path | None) -> Tls | None:
    """Check and return the TLS files; None if none are given."""
    if keyfile is None and certfile is None:
        return None
    if keyfile is None or certfile is None:
        missing = KEY if keyfile is None else CERTIFICATE
        raise _refusal(missing, f"https needs --tls-{missing} too", "give both files")
    for path, name in ((keyfile, KEY), (certfile, CERTIFICATE)):
        _check(path, name)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certfile, keyfile, password=_no_password)
    except _Locked:
        hint = "make one without: openssl pkey -in KEY -out NEW"
        raise _refusal(KEY, f"the key in {keyfile} is locked with a password", hint) from None
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        said = "is another certificate's" if reason == "KEY_VALUES_MISMATCH" else f"cannot be used ({reason})"
        raise _refusal(KEY, f"the key in {keyfile} {said}", f"it must fit {certfile}") from None
    return Tls(keyfile, certfile)


def _check(path: Path, name: str) -> None:
    try:
        text = path.read_bytes()
    except OSError as error:
        hint = "check the name and its rights"
        raise _refusal(name, f"--tls-{name} {path} cannot be read ({error.strerror})", hint) from None
    mark, kind = CONTENTS[name]
    if mark not in text:
        raise _refusal(name, f"{path} holds no {kind} in PEM", f"--tls-{name} takes a PEM file")


def _refusal(name: str, sentence: str, hint: str) -> UserError:
    return UserError(sentence, hint=hint, field=f"tls-{name}")


class _Locked(Exception):
    pass


def _no_password() -> NoReturn:
    raise _Locked
