"""What extensions add to the page and the HTTP API: places, routes' calls and answers, cards, steps of Extras.

No Gradio here: components are handed to whoever builds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modules.params.generation import GenerationParams

if TYPE_CHECKING:
    from PIL.Image import Image

_IN_TABS = ("prompt", "actions", "size", "parameters", "result")
PLACES: tuple[str, ...] = (
    "header",
    *(f"{tab}.{place}" for tab in ("txt2img", "img2img", "inpaint") for place in _IN_TABS),
    "extras.options",
    "extras.result",
    "png_info.result",
    "history.tools",
)
"""The places on the page that `Host.slot` knows; a name stays once it is here."""


class SlotPage(Protocol):
    """What the function given to `Host.slot` receives: it creates Gradio components, which then stand there."""

    tab: str
    """ "txt2img" of "txt2img.size"."""

    def on(
        self,
        trigger: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        fields: Sequence[str] | None = None,
    ) -> None:
        """Call ``handler(values, *inputs)`` at an event of a component, such as ``button.click``. ``values`` are those
        of the tab's form by their names in the API, those of an extension as "ext.NAME.OPTION"; what it returns under
        these names is put into the form. With ``outputs``, components of your own, it returns ``(changes, *outputs)``.
        ``fields``: the names that it needs; None: all, which take longer on their way.
        """

    def stored(self, name: str) -> Image:
        """The stored picture that an option of the kind "image" or "mask" names. Raises `NotFound`."""


@dataclass(frozen=True)
class SlotSpec:
    """Components of an extension at one of the `PLACES`."""

    place: str
    build: Callable[[Any], None]


# ------------------------------------------------------------------------------------------------------------ routes


class RouteCall(Protocol):
    """A request to a route with ``caller=True``."""

    values: Mapping[str, Any]
    """The query's values, for POST the body's object."""
    owner: str
    """The account that asks, whose jobs it submits and sees."""
    is_admin: bool

    def submit(self, params: GenerationParams) -> str:
        """Queue a generation as a job of whoever asks, and return its number. Raises `UserError`."""

    def job(self, number: str) -> JobState:
        """How far a job is; another's is not found."""

    def store(self, image: bytes) -> str:
        """Keep an image file as one that jobs may start from, and return its name for ``Init.image``."""


@dataclass(frozen=True)
class JobState:
    """A job as a route sees it."""

    number: str
    state: str
    """ "queued", "running", "done", "failed" or "cancelled"."""
    images: tuple[Path, ...] = ()
    error: str = ""


@dataclass(frozen=True)
class FileAnswer:
    """A file as the answer of a route. It is sent piece by piece, and clients may ask for parts of it."""

    path: Path
    media_type: str = ""
    """Empty: by the file's suffix."""
    name: str = ""
    """The name under which browsers save it; empty: it is shown."""


@dataclass(frozen=True)
class StreamAnswer:
    """An answer that comes in pieces while a route makes it."""

    pieces: Iterable[bytes | str]
    media_type: str = "text/event-stream"


# ------------------------------------------------------------------------------------------------------------- cards


@dataclass(frozen=True)
class Card:
    """An entry of a page of cards: a click writes ``insert`` into the prompt."""

    name: str
    insert: str
    description: str = ""


@dataclass(frozen=True)
class CardsSpec:
    """A page of cards: of ``cards``, below the prompts, listed when it is opened; or of the files in a ``folder``, as a
    tab of the panel of networks, with previews, search, folders and notes.
    """

    name: str
    label: str
    cards: Callable[[], Sequence[Card]] | None = None
    folder: str = ""
    """Below the models folder: "detectors" for models/detectors, as in ``option(kind="file:detectors")``."""
    insert: str = "{stem}"
    """What a click on a file's card writes into the prompt: {name} is its name as options list it, {stem} that of the
    file without its suffix."""
    option: str = ""
    """ "MODIFIER.OPTION": a click chooses the file for this option instead, and switches the modifier on."""


# ------------------------------------------------------------------------------------------------------------ extras


@dataclass(frozen=True)
class ExtrasStepSpec:
    """A step of Extras, after upscaling and faces: ``apply(image, options) -> image``, in the worker."""

    name: str
    """In requests: small letters, digits and _."""
    label: str
    options: type
    """A frozen dataclass of ``option(...)`` fields."""
    apply: Callable[[Image, Any], Image]
    """The image itself where there is nothing to do."""
    order: int = 100
    help: str = ""
    """One sentence beside the switch."""
