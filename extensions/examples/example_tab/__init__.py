"""The example of the author's guide: a tab that makes postcards of a place."""

from __future__ import annotations

from dataclasses import dataclass

from modules import GenerationParams, Host, TabPage, TabSpec, UserError, option

STYLES = {
    "drawing": "pencil drawing, white paper",
    "painting": "oil painting, thick paint",
    "photo": "photo, soft light",
}


@dataclass(frozen=True)
class Postcard:
    """The form's options: each becomes a control, and is cast and checked before it gets here."""

    place: str = option("a red house by the sea", "Place", help="what the postcard shows")
    style: str = option("drawing", "Style", choices=tuple(STYLES))
    cards: int = option(4, "Postcards", lo=1, hi=8, step=1)


def build(page: TabPage) -> None:
    """Build the tab: a form, a button, and the result area."""
    form = page.form(Postcard)
    for name in form.options:
        form.add(name)

    def request(postcard: Postcard) -> GenerationParams:
        """What a click makes. It becomes a job like any other: in the queue, in the history, with its recipe."""
        if not postcard.place.strip():
            raise UserError("a postcard shows some place", hint="name one", field="place")
        return page.params(
            prompt=f"postcard of {postcard.place}, {STYLES[postcard.style]}",
            negative_prompt="text, border",
            batch_size=postcard.cards,
        )

    page.generate(form, request, label="Make postcards")


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    host.add_tab(TabSpec("example_tab", "Postcards", build))
