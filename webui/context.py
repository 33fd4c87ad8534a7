"""What a tab and the components within it are built with: `Page`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from modules.params import GenerationParams
from modules.users import LOCAL
from webui.controls import Form
from webui.send import Source, Target
from webui.services import Services
from webui.visitors import visitor_of

T = TypeVar("T")


@dataclass(frozen=True)
class Page:
    """What a tab is built with: the services, the page it stands on and the choices above the tabs."""

    services: Services
    blocks: Any
    shared: Mapping[str, Any]
    """The checkpoint selector and the quick settings, which all tabs share, by the option's name."""
    dropped: Any
    """A hidden button that takes what is dropped anywhere on the page; drop.js gives it the file."""
    frame: Any
    """What holds the tabs; ``gr.update(selected=name)`` shows one."""
    views: dict[str, Any] = field(default_factory=dict)
    """The result's side of each tab that makes images, by the tab's name; filled while the tabs are built."""
    sources: list[Source] = field(default_factory=list)
    """Further places with pictures that can be sent on."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Tabs that take a picture or its settings, by the tab's name."""
    tabs: dict[str, Any] = field(default_factory=dict)
    """The tabs themselves, for those that fill when they are first looked at."""

    forms: list[Form[Any]] = field(default_factory=list)
    """Those for requests, which `form` made."""

    def form(self, cls: type[T]) -> Form[T]:
        """A form of a dataclass's options. One for a request has those of all extensions too, and what stands above the
        tabs."""
        if cls is not GenerationParams:
            return Form(cls, self.services.tables())
        made = Form(cls, self.services.tables(), self.services.host.modifiers)
        made.share(self.shared)
        self.forms.append(made)
        return made

    @staticmethod
    def owner(request: Any) -> str:
        """Whose jobs a visitor sees: the account's name; without accounts all visitors are one person."""
        name = getattr(request, "username", None)
        if name is None and (visitor := visitor_of(request)):
            name = visitor.name
        return name or LOCAL
