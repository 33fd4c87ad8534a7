"""The controls of the page's own, as its HTML has them: what tests ask of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass
class Control:
    """One control: ``kind`` as `webui.html.controls` names it."""

    elem_id: str
    kind: str
    label: str = ""
    info: str = ""
    attributes: dict[str, str | None] = field(default_factory=dict)
    choices: list[tuple[str, str]] = field(default_factory=list)
    """Words and values."""

    @property
    def enabled(self) -> bool:
        return "disabled" not in self.attributes


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.controls: list[Control] = []
        self._within = ""
        self._value = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "data-kind" in given:
            self.controls.append(Control(str(given["id"]), str(given["data-kind"])))
        elif "data-name" in given and tag in ("input", "select", "textarea"):
            self.controls[-1].attributes = given
            self.controls[-1].label = self.controls[-1].label or str(given.get("aria-label") or "")
        self._within = tag
        self._value = str(given.get("value"))

    def handle_data(self, data: str) -> None:
        if not self.controls or not data.strip():
            return
        control = self.controls[-1]
        if self._within in ("label", "span") and not control.label:
            control.label = data
        elif self._within == "small" and not control.info:
            control.info = data
        elif self._within == "option":
            control.choices.append((data, self._value))

    def handle_endtag(self, tag: str) -> None:
        self._within = ""


def html_of(config: dict[str, Any]) -> list[str]:
    """All pieces of HTML of a page's configuration."""
    return [str(c["props"].get("value") or "") for c in config["components"] if c["type"] == "html"]


def controls_in(pieces: Iterable[str]) -> dict[str, Control]:
    """The controls in pieces of HTML by the ids of their elements."""
    found: dict[str, Control] = {}
    for html in pieces:
        reader = _Reader()
        reader.feed(html)
        assert not (twice := [one.elem_id for one in reader.controls if one.elem_id in found]), twice
        found |= {control.elem_id: control for control in reader.controls}
    return found


def ids_in(pieces: Iterable[str]) -> set[str]:
    """All ids of elements in pieces of HTML."""
    return {name for html in pieces for name in re.findall(r' id="([^"]+)"', html)}
