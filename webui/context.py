"""`Page`, the context in which tabs and components are built, and the sources and targets of sent images.

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
from webui.fields import Fields
from webui.forms import Form
from webui.loading import Load
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
"""The settings sent along with an image."""


@dataclass(frozen=True)
class Sent:
    """An image being sent, with the settings that made it, as far as known."""

    path: Path
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """A place to send from, by buttons of `webui.components.send`. ``find(request, *values) -> Sent`` for the values of
    ``inputs``; None if there is no image."""

    buttons: Any
    find: Callable[..., Awaitable[Sent | None]]
    inputs: Sequence[Any]


@dataclass(frozen=True)
class Target:
    """A tab to send to: the image goes into ``component`` as ``value(path)``, or only its settings are taken."""

    form: Form[GenerationParams] | None = None
    component: Any = None
    value: Callable[[str], Any] = str

    @property
    def outputs(self) -> list[Any]:
        return [*([self.component] if self.component else []), *(self.form.outputs if self.form else [])]

    def shown(self, sent: Sent, size: tuple[int, int]) -> list[Any]:
        """The values of ``outputs``: all settings if the image itself is not taken, else those that suit it."""
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
    """The context in which a tab is built: services, the Gradio blocks and the shared header controls."""

    services: Services
    blocks: Any
    shared: Mapping[str, Any]
    """The checkpoint selector and the quick settings, which all tabs share, by the option's name."""
    dropped: Any
    """A hidden button that takes what is dropped anywhere on the page; drop.js gives it the file."""
    frame: Any
    """The tabs component; ``gr.update(selected=name)`` shows one."""
    home: Any
    """A container outside the tabs, whose contents are on the page whichever tab is shown."""
    views: dict[str, Any] = field(default_factory=dict)
    """The results side of each generation tab, by the tab's name; filled while the tabs are built."""
    sources: list[Source] = field(default_factory=list)
    """Further places with pictures that can be sent on."""
    targets: dict[str, Target] = field(default_factory=dict)
    """Tabs that take a picture or its settings, by the tab's name."""
    tabs: dict[str, Any] = field(default_factory=dict)
    """The tabs themselves, for those that fill when they are first looked at."""

    slots: list[Any] = field(default_factory=list)
    """What extensions have put at places of the page; see `webui.components.slots`."""

    loads: list[Load] = field(default_factory=list)
    """What is done when the page is opened."""

    style_doors: list[Any] = field(default_factory=list)
    """Where the tabs meet the editor of styles; see `webui.tabs.style_editor`."""

    forms: list[Form[Any]] = field(default_factory=list)
    """The request forms made by `form`."""

    files: Files | None = None
    """The visitors' files; None: no access checks."""

    def uploads(self, request: Any) -> Callable[[Any], Path | None]:
        """A function that finds the file behind a component's value, if this visitor uploaded it or was shown it.
        Checks are made here, where a path is used; earlier checks of incoming data only know certain shapes.
        """
        name = self.owner(request)

        def found(value: Any) -> Path | None:
            path = uploaded(value)
            return path if path is None or self.files is None or self.files.may_read(name, path) else None

        return found

    def fields(self, tab: str) -> Fields:
        """Create the place for the controls of a tab that are the page's own."""
        return Fields(tab, self.home)

    def form(self, cls: type[T], fields: Fields | None = None) -> Form[T]:
        """Create a form for a dataclass of options. One for a request includes the options of all extensions and the
        header's controls.
        """
        given = self.services.tables(), self.services.inputs.put, self.services.inputs.open
        if cls is not GenerationParams:
            return Form(Shape(cls), *given)
        shape: Shape[Any] = with_modifiers(self.services.host.modifiers)
        made: Form[T] = Form(shape, *given, fields)
        made.share(self.shared)
        self.forms.append(made)
        return made

    @staticmethod
    def owner(request: Any) -> str:
        """The account whose jobs a visitor sees; without accounts all visitors are one person."""
        name = getattr(request, "username", None)
        if name is None and (visitor := visitor_of(request)):
            name = visitor.name
        return name or LOCAL
