"""HTML of status lines, previews and job lists, every value escaped; and `JobProgress`, the state behind them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any
from urllib.parse import quote

from modules.checkpoints.way import Way
from modules.errors import UserError
from modules.metadata.recipe import Recipe, UsedExtension
from modules.metadata.verdict import Verdict
from webui.i18n import t
from webui.services import JobView

RUNNING = frozenset({"waiting", "queued", "started", "step"})
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")


@dataclass(frozen=True)
class Result:
    """A generated image."""

    path: str
    infotext: str
    seed: int | None


@dataclass(frozen=True)
class JobProgress:
    """What the page knows of one job; immutable. Each event gives a new state with `after`."""

    phase: str = "idle"
    """idle, or the type of the last event that moved the job."""
    position: int = 0
    step: int = 0
    steps: int = 0
    image: int = 0
    images: int = 0
    eta_s: float | None = None
    preview: str = ""
    """The latest step's picture, base64 JPEG."""
    results: tuple[Result, ...] = ()
    seconds: float | None = None
    error: str = ""
    field: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_running(self) -> bool:
        return self.phase in RUNNING

    @property
    def fraction(self) -> float:
        """Progress over all images' steps, from 0 to 1."""
        if self.phase == "done":
            return 1.0
        total = self.steps * max(self.images, 1)
        done = self.steps * max(self.image - 1, 0) + self.step
        return min(max(done / total, 0.0), 1.0) if total else 0.0

    def after(self, event: Mapping[str, Any]) -> JobProgress:
        """The state after a queue event; unknown events change nothing."""
        match event["type"]:
            case "queued":
                # Queued again after its worker's death, a job tells anew what it has.
                return replace(self, phase="queued", position=int(event["position"]), results=())
            case "started":
                return replace(self, phase="started")
            case "step":
                known = {name: event[name] for name in ("step", "steps", "image", "images", "eta_s") if name in event}
                return replace(self, phase="step", preview=event.get("preview") or self.preview, **known)
            case "image":
                return replace(self, results=(*self.results, _result(event)))
            case "note":
                return self.noted(str(event["text"]))
            case "done" | "cancelled" as phase:
                output = event.get("output") or {}
                ended = replace(self, phase=phase, preview="", seconds=output.get("seconds"))
                ended = replace(ended, results=tuple(map(_result, output.get("images") or ())))
                return ended.noted(*output.get("notes") or ())
            case "failed":
                error = event.get("error") or {}
                return self.failed(error.get("detail") or "the job failed", error.get("field") or "")
        return self

    def noted(self, *texts: str) -> JobProgress:
        """The state with further notes on the request, without duplicates."""
        return replace(self, notes=tuple(dict.fromkeys((*self.notes, *texts))))

    def failed(self, sentence: str, field: str = "") -> JobProgress:
        return replace(self, phase="failed", preview="", error=sentence, field=field)


def results_of(job: JobView) -> tuple[Result, ...]:
    """The images of a job: the final ones, or those so far."""
    if job.output is not None:
        return tuple(map(_result, job.output.get("images") or ()))
    return tuple(map(_result, (job.progress or {}).get("saved") or ()))


def _result(image: Mapping[str, Any]) -> Result:
    return Result(str(image["path"]), str(image.get("infotext") or ""), image.get("seed"))


def status_html(run: JobProgress, worker_state: str = "ready", worker_detail: str = "") -> str:
    """The status line above the image: state, progress, and errors in one sentence."""
    if run.phase == "failed":
        return _strip("failed", f'<span role="alert">{_sentence(run.error)}</span>', 0.0)
    text = escape(_progress_text(run, worker_state, worker_detail))
    notes = "".join(f'<span class="note">{_sentence(note)}</span>' for note in run.notes)
    shown = run.phase if run.phase in ("idle", "done", "cancelled") else "running"
    return _strip(shown, f"<span>{text}</span>{notes}", run.fraction)


def replay_html(run: JobProgress, worker_state: str = "ready", worker_detail: str = "") -> str:
    """The progress of a replay, or why there is no verdict."""
    if run.phase == "cancelled":
        return _strip("cancelled", "<span>The replay was stopped, so there is no verdict</span>", 0.0)
    return status_html(run, worker_state, worker_detail)


VERDICTS = {
    "identical": "Identical: the picture was made again, and every pixel is the same",
    "differs": "Differs: the picture was made again, and it is not the same",
    "cannot": "Cannot be made again",
}


def verdict_html(verdict: Mapping[str, Any], results: Sequence[Result] = ()) -> str:
    """A `Verdict.to_json` in plain words, with the new image if there is one."""
    kind = str(verdict["kind"])
    said = [VERDICTS[kind]]
    if kind != "identical" and not verdict["reasons"]:
        said.append("Nothing that is recorded changed, so the cause is not known")
    reasons = "".join(f"<li>{_sentence(reason)}</li>" for reason in verdict["reasons"])
    if difference := verdict["difference"]:
        share, largest, mean = (difference[name] for name in ("share", "largest", "mean"))
        what = "In the file, " if kind == "identical" else ""
        said.append(f"{what}{share:.1%} of the pixels differ, by at most {largest} of 255 and {mean:.3g} on average")
    if verdict["remark"]:
        said.append(str(verdict["remark"]))
    head, *rest = said
    below = "".join(f"<p>{_sentence(text)}</p>" for text in rest)
    because = f"<ul>{reasons}</ul>" if reasons else ""
    sources = (escape(file_url(result.path)) for result in results)
    new = "".join(
        f'<figure><img alt="" src="{source}"><figcaption>Made again</figcaption></figure>' for source in sources
    )
    return (
        f'<div class="rp-verdict" data-kind="{escape(kind)}" role="status">'
        f"<strong>{_sentence(head)}</strong>{because}{below}{new}</div>"
    )


def recipe_html(recorded: Recipe | Verdict, items: Mapping[str, str]) -> str:
    """What an image's recipe records of its generation, and the other texts in the file."""
    rows = [(name, text[:2000]) for name, text in items.items()]
    if isinstance(recorded, Verdict):
        cannot = f"It cannot be verified: {'; '.join(recorded.reasons)}"
        head = f"<p>{_sentence(cannot)}</p>" + (f"<p>{_sentence(recorded.remark)}</p>" if recorded.remark else "")
    else:
        head = "<p>This picture carries its recipe: Replay makes it again and compares every pixel.</p>"
        request = recorded.request
        facts = [
            ("Made by", recorded.program),
            ("With", f"torch {recorded.torch}, {recorded.dtype}, {recorded.kernels} kernels"),
            ("On", ", ".join(filter(None, (recorded.device, recorded.processor)))),
            *([("Memory", _with_little_memory(recorded))] if recorded.memory else []),
            ("Picture", f"{recorded.index + 1} of {request.images}, seed {recorded.seed}"),
            *([("Cut short", f"after step {recorded.skipped}")] if recorded.skipped else []),
            *((file.role.capitalize(), f"{file.name}, SHA-256 {file.sha256}") for file in recorded.files),
            *((t("Extension"), _part_of(one)) for one in recorded.extensions),
            *((t("Generation within it"), str(one)) for one in recorded.inner),
            ("Pixels", f"SHA-256 {recorded.pixels}"),
        ]
        rows = facts + rows
    table = "".join(f'<dt>{escape(name)}</dt><dd translate="no">{escape(text)}</dd>' for name, text in rows)
    return f'<div class="rp-facts">{head}<dl>{table}</dl></div>'


def _with_little_memory(recorded: Recipe) -> str:
    """What was done because memory was short; a measure of another version by its name."""
    try:
        return str(Way.from_json(recorded.memory))
    except UserError:
        return ", ".join(recorded.memory)


def _part_of(one: UsedExtension) -> str:
    """An extension's options: "softer 1.0, amount 0.4"."""
    words = [f"{one.name} {one.version}".strip(), *(f"{name} {value}" for name, value in (one.options or {}).items())]
    return ", ".join([*words, *([one.failed] if one.failed else [])])


def _strip(phase: str, inner: str, fraction: float) -> str:
    return (
        f'<div class="rp-status" data-phase="{escape(phase)}" role="status">'
        f'<div class="rp-text">{inner}</div>'
        f'<div class="rp-bar"><i style="width:{100 * fraction:.1f}%"></i></div></div>'
    )


def _progress_text(run: JobProgress, worker_state: str, worker_detail: str) -> str:
    match run.phase:
        case "idle":
            return ""
        case "done":
            noun = "image" if len(run.results) == 1 else "images"
            took = f" in {_duration(run.seconds)}" if run.seconds is not None else ""
            return f"{len(run.results)} {noun}{took}"
        case "cancelled":
            kept = f"{len(run.results)} kept" if run.results else "nothing was finished yet"
            return f"Interrupted, {kept}"
        case "step":
            which = f"Image {run.image} of {run.images} · " if run.images > 1 else ""
            left = f" · {_duration(run.eta_s)} left" if run.eta_s is not None else ""
            return f"{which}Step {run.step} of {run.steps}{left}"
    if worker_state in ("starting", "loading"):
        return "Waiting: the model is loading" + (f" ({worker_detail})" if worker_detail else "")
    if worker_state == "dead":
        return "Waiting: the worker is being started again" + (f" ({worker_detail})" if worker_detail else "")
    if run.phase == "queued" and run.position > 1:
        return f"Number {run.position} in the queue"
    if run.phase == "queued" and worker_state == "busy":
        return "Next in the queue"
    return "Starting"


def _duration(seconds: float) -> str:
    """A duration in seconds for people.

    >>> _duration(0.84), _duration(12.4), _duration(71)
    ('0.8 s', '12 s', '1 min 11 s')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def preview_html(run: JobProgress, earlier: Sequence[Result] = ()) -> str:
    """The overlay of the gallery while a job runs: the latest preview and the images made so far, after those of
    ``earlier`` jobs.
    """
    if not run.is_running:
        return '<div class="rp-preview" hidden></div>'
    image = '<div class="rp-blank"></div>'
    if _BASE64.fullmatch(run.preview):
        image = f'<img class="rp-live" alt="Preview" src="data:image/jpeg;base64,{run.preview}">'
    results = (*earlier, *run.results)[-12:]
    made = "".join(f'<img alt="" src="{escape(file_url(result.path))}">' for result in results)
    return f'<div class="rp-preview">{image}<div class="rp-made">{made}</div></div>'


def sheets_html(sheets: Iterable[Mapping[str, Any]]) -> str:
    """The tables of a script: each cell an image that opens on its own, or the error."""
    tables = "".join(map(_sheet, sheets))
    return f'<div class="rp-sheets">{tables}</div>' if tables else ""


def _sheet(sheet: Mapping[str, Any]) -> str:
    caption = f"<caption>{escape(sheet['title'])}</caption>" if sheet["title"] else ""
    heads = "".join(f'<th scope="col">{escape(words)}</th>' for words in sheet["columns"])
    head = f"<thead><tr><td></td>{heads}</tr></thead>" if any(sheet["columns"]) else ""
    body = "".join(
        f'<tr><th scope="row">{escape(words)}</th>{"".join(map(_cell, row))}</tr>'
        for words, row in zip(sheet["rows"], sheet["cells"], strict=True)
    )
    return f'<div class="rp-sheet"><table>{caption}{head}<tbody>{body}</tbody></table></div>'


def _cell(cell: Mapping[str, Any]) -> str:
    if not cell["path"]:
        return f'<td><span class="rp-missing">{_sentence(cell["error"])}</span></td>'
    url, text = escape(file_url(cell["path"])), escape(cell["infotext"])
    return f'<td><a href="{url}" target="_blank"><img loading="lazy" src="{url}" alt="{text}" title="{text}"></a></td>'


SHOWN_WAITING = 4


def line_html(waiting: Sequence[tuple[int, JobView]]) -> str:
    """The waiting jobs of this page: position, prompt, and a button to remove each."""
    if not waiting:
        return '<div class="rp-queue" hidden></div>'
    out = escape(t("Take it out of the queue"))
    items = "".join(
        f'<li><b>{place or ""}</b><span translate="no">{escape(_asked(job))}</span><button type="button" '
        f'class="rp-unqueue" data-job="{escape(job.id)}" title="{out}" aria-label="{out}">×</button></li>'
        for place, job in waiting[:SHOWN_WAITING]
    )
    more = len(waiting) - SHOWN_WAITING
    rest = f"<li>{escape(t('and {count} more').format(count=more))}</li>" if more > 0 else ""
    return f'<div class="rp-queue"><span>{escape(t("Waiting"))}</span><ol>{items}{rest}</ol></div>'


def _asked(job: JobView) -> str:
    """A job's prompt on one line, or its kind."""
    params = job.spec.get("params") or {}
    text = " ".join(str(params.get("prompt") or params.get("upscaler") or job.spec.get("tab") or job.kind).split())
    return text if len(text) <= 80 else text[:79] + "…"


def file_url(path: str) -> str:
    """The URL at which Gradio serves a file, relative to the page, so that it works behind a path prefix."""
    return "gradio_api/file=" + quote(path)


def browser_settings_html() -> str:
    """Settings kept in this browser alone; notify.js fills and applies them."""
    word = t("Say so when a job has ended and another window is in view")
    refused = t("The browser does not allow it; its settings for this page can.")
    return (
        f'<div class="rp-browser"><h4>{escape(t("In this browser"))}</h4>'
        f'<label class="rp-setting"><input type="checkbox" name="word">{escape(word)}</label>'
        f'<p class="refused" hidden>{escape(refused)}</p>'
        f'<label class="rp-setting"><input type="checkbox" name="sound">{escape(t("A sound when a job has ended"))}'
        f"</label><p>{escape(t('Kept here and used at once, without saving.'))}</p></div>"
    )


def trouble_html(sentence: str) -> str:
    """A warning banner at the top of the page."""
    return f'<div class="rp-trouble" role="alert">{_sentence(sentence)}</div>'


LOOKS = (
    ("density", t("Compact or roomy"), "M2 3.5h12M2 6.5h12M2 9.5h12M2 12.5h12"),
    ("theme", t("Light or dark"), "M8 2a6 6 0 1 0 0 12zM8 2a6 6 0 0 1 0 12"),
)
"""Switches in the bar: name, what a click does, and the icon's path. The browser keeps them (`assets/theme.js`)."""


def header_html(version: str) -> str:
    return (
        '<div class="rp-brand"><svg viewBox="0 0 24 24" width="22" height="22" aria-hidden="true">'
        '<rect x="3" y="3" width="2.6" height="18" rx="1"/><rect x="7.4" y="3" width="1.3" height="18" rx=".6"/>'
        '<circle cx="13" cy="9" r="1.9"/><circle cx="13" cy="15" r="1.9"/></svg>'
        f'<span role="heading" aria-level="1" title="Version {escape(version)}">Reprise</span></div>'
    )


def worker_html() -> str:
    """A placeholder for the worker's state, which script.js fills from /healthz, and switches of the page's look."""
    looks = "".join(
        f'<button type="button" class="rp-look" data-look="{look}" title="{escape(title)}" '
        f'aria-label="{escape(title)}"><svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">'
        f'<path d="{path}"/></svg></button>'
        for look, title, path in LOOKS
    )
    worker = '<div class="rp-worker" data-state="starting" role="status"><i></i><span>Connecting</span></div>'
    return f'{worker}<span class="rp-looks">{looks}</span>'


def account_html() -> str:
    """The account menu; account.js inserts the name and shows it. Its forms work without scripts."""
    return (
        '<details class="rp-account" hidden><summary>'
        '<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true"><circle cx="8" cy="5" r="3"/>'
        '<path d="M2 15c0-4 3-5.5 6-5.5s6 1.5 6 5.5z"/></svg>'
        '<span class="rp-account-name" translate="no"></span></summary>'
        '<form method="post" action="logout" enctype="multipart/form-data">'
        f"<button>{escape(t('Log out'))}</button>"
        f'<button name="everywhere" value="1">{escape(t("Log out on all devices"))}</button></form></details>'
    )


def _sentence(text: str) -> str:
    """Text escaped, on one line, with a capital first letter."""
    text = " ".join(text.split())
    return escape(text[:1].upper() + text[1:])


def gallery_items(results: Iterable[Result]) -> list[str]:
    """Gallery values as paths: Gradio would convert images to lossy WebP without metadata."""
    return [result.path for result in results]
