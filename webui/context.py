"""What a tab and the components within it are built with: `Page`.

A picture can be sent from anywhere to anywhere: a `Source` has buttons and says which picture is meant, a `Target` is a
tab that takes one. Each source's buttons lead to every target.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from modules.accounts import LOCAL
from modules.extension.modifier import with_modifiers
from modules.imaging.resize import request_size
from modules.params.generation import GenerationParams
from modules.params.options import Shape
from webui.forms import Form
from webui.security.auth import visitor_of
from webui.security.ownership import Files, uploaded
from webui.services import Services

T = TypeVar("T")
ALONG = (
    "prompt",
    "negative_prompt",
    "sampler",
    "scheduler",
    "steps",
    "cfg_scale",
    "clip_skip",
    "vae",
)
"""What goes along with a picture."""


@dataclass(frozen=True)
class Sent:
    """A picture that is sent, and the settings that made it, as far as they are known."""

    path: Path
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """``find(request, *values) -> Sent`` for the values of ``inputs``; None where there is no picture."""

    buttons: Mapping[str, Any]
    find: Callable[..., Awaitable[Sent | None]]
    inputs: Sequence[Any]


@dataclass(frozen=True)
class Target:
    """A tab that takes a picture into ``component``, as ``value(path)``, or its settings alone."""

    form: Form[GenerationParams] | None = None
    component: Any = None
    value: Callable[[str], Any] = str

    @property
    def outputs(self) -> list[Any]:
        return [*([self.component] if self.component else []), *(self.form.components if self.form else [])]

    def shown(self, sent: Sent, size: tuple[int, int]) -> list[Any]:
        """What ``outputs`` become: all settings where the picture itself is not taken, else those that suit it."""
        taken = [self.value(str(sent.path))] if self.component else []
        if self.form is None:
            return taken
        if not self.component:
            return self.form.show({key: value for key, value in sent.params.items() if key != "init"})
        width, height = request_size(size)
        params = {key: value for key, value in sent.params.items() if key in ALONG}
        return [*taken, *self.form.show(params | {"width": width, "height": height})]


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

    files: Files | None = None
    """Whose each file is; None: nobody asks."""

    def uploads(self, request: Any) -> Callable[[Any], Path | None]:
        """Finds the file behind a component's value, if this visitor uploaded it or was shown it. This is where a path
        is used; what is asked before, when the data comes in, knows only the shapes that it looks for."""
        name = self.owner(request)

        def found(value: Any) -> Path | None:
            path = uploaded(value)
            return path if path is None or self.files is None or self.files.may_read(name, path) else None

        return found

    def form(self, cls: type[T]) -> Form[T]:
        """A form of a dataclass's options. One for a request has those of all extensions too, and what stands above the
        tabs."""
        if cls is not GenerationParams:
            return Form(Shape(cls), self.services.tables())
        shape: Shape[Any] = with_modifiers(self.services.host.modifiers)
        made: Form[T] = Form(shape, self.services.tables())
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
