"""HTML of the History tab, every value escaped."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from html import escape

from webui.i18n import t
from webui.services import JobView, PictureView


def tiles_html(
    pictures: Sequence[PictureView], count: int, gone: Collection[int] = (), unmade: Sequence[JobView] = ()
) -> str:
    """One page of the list: thumbnails as buttons, preceded by recent jobs without images."""
    if not pictures:
        none = f'<p class="rp-none">{escape(t("Nothing was made yet."))}</p>'
        return _unmade(unmade) + none
    of = t("1 picture") if count == 1 else t("{count} pictures").format(count=f"{count:,}")
    tiles = "".join(_tile(one, one.number in gone) for one in pictures)
    return f'<p class="rp-none">{escape(of)}</p>{_unmade(unmade)}<div class="rp-tiles">{tiles}</div>'


def _tile(picture: PictureView, gone: bool) -> str:
    words = escape(f"{picture.kind}, {_when(picture.created)}")
    inner = f'<span class="gone">{escape(t("The file is gone"))}</span>'
    if not gone:
        inner = f'<img loading="lazy" alt="" src="api/v1/pictures/{picture.number}/small">'
    return (
        f'<button type="button" class="rp-tile" data-number="{picture.number}" translate="no" aria-label="{words}" '
        f'title="{words}">{inner}</button>'
    )


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")


def _unmade(jobs: Sequence[JobView]) -> str:
    """The last jobs that failed or were cancelled before their first image, each in a sentence."""
    empty = [job for job in jobs if not (job.output or {}).get("images")]
    if not empty:
        return ""
    failed = sum(job.state == "failed" for job in empty)
    counts = [
        t("{count} failed").format(count=failed) if failed else "",
        t("{count} stopped").format(count=len(empty) - failed) if len(empty) > failed else "",
    ]
    items = "".join(f"<li>{_why(job)}</li>" for job in empty)
    summary = escape(t("Without a picture: {counts}").format(counts=", ".join(filter(None, counts))))
    return f'<details class="rp-unmade"><summary>{summary}</summary><ul>{items}</ul></details>'


def _why(job: JobView) -> str:
    params = job.spec.get("params") or {}
    asked = " ".join(str(params.get("prompt") or job.spec.get("tab") or job.kind).split())
    asked = asked if len(asked) <= 80 else asked[:79] + "…"
    why = str((job.error or {}).get("detail") or "") if job.state == "failed" else t("stopped")
    return f'<b translate="no">{escape(asked)}</b>: <span>{escape(why)}</span>'


def chosen_html(picture: PictureView | None) -> str:
    """The selected image in a box of fixed height."""
    if picture is None:
        return (
            f'<div class="rp-chosen"><p>{escape(t("A click on a picture shows it here, with what made it."))}</p></div>'
        )
    source = f"api/v1/pictures/{picture.number}"
    return (
        f'<div class="rp-chosen"><a href="{source}" target="_blank"><img alt="{escape(t("The chosen picture"))}" '
        f'src="{source}"></a></div>'
    )
