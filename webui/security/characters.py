"""Replaces lone surrogates in all text that is sent to the page or in an answer.

A file's name that is not UTF-8 comes from the system with lone surrogates in it, and so does what a browser sends where
a person deleted half of an emoji. UTF-8 cannot say them: one such name would end every answer that holds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

HALF = re.compile("[\ud800-\udfff]")


def whole(value: Any) -> Any:
    """``value`` with every lone surrogate replaced by U+FFFD, in keys too, since answers are UTF-8. Unchanged values
    are returned as the same object.

    >>> whole({"a": ["ok", "\\ud800!"]})
    {'a': ['ok', '\\ufffd!']}
    """
    if isinstance(value, str):
        if value.isascii():  # a picture of a megabyte in base64, say: known at once, where a search takes 10 ms
            return value
        return HALF.sub("\ufffd", value) if HALF.search(value) else value
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, Mapping):
        return {whole(key): whole(inner) for key, inner in value.items()}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return tuple(whole(inner) for inner in value)
    if isinstance(value, list):
        return [whole(inner) for inner in value]
    return value


class WholeJSON(JSONResponse):
    """A JSON response without lone surrogates."""

    def render(self, content: Any) -> bytes:
        return super().render(whole(content))
