"""Writes the skeleton of a new extension of some kind, which loads and passes its tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.errors import UserError
from modules.extension.manifest import API, NAME, folders_in

MANIFEST = """name = "{name}"
version = "0.1"
api = {api}
description = "What it does, in one sentence."
permissions = ["{permission}"]  # what register() adds; extensions/README.md lists them all
requirements = []  # such as "numpy>=2": without them it is refused; the owner installs them
optional = []  # it does without these
"""
_MODIFIER = '''"""{title}: say here what it does. The guide is extensions/README.md."""

from __future__ import annotations

from dataclasses import dataclass

from modules import GenerationParams, Guidance, Host, Modifier, ModifierSpec, option


@dataclass(frozen=True)
class Options:
    """Each option becomes a control in every tab, a field of the API, a key of the text, an axis of grids."""

    words: str = option("", "Words", help="added to the prompt")
    strength: float = option(1.0, "Strength", lo=0.0, hi=2.0, step=0.05, help="of the guidance; 1: as it is")


class {cls}(Modifier):
    """One is made for each request in which it is switched on. Delete the hooks that you do not need."""

    def __init__(self, options: Options):
        self.options = options

    def revise(self, params: GenerationParams) -> GenerationParams:
        """The request of one image, changed. The answer must follow from `params` and the options alone."""
        return params.changed(prompt=", ".join(filter(None, (params.prompt, self.options.words))))

    def guidance(self, guidance: Guidance) -> Guidance:
        """Around (positive, negative, scale) -> x0. `network` and `denoiser` are wrapped in the same way."""
        return lambda positive, negative, scale: guidance(positive, negative, scale * self.options.strength)

    # def modify(self, model):
    #     """Say what to change in the model; the host puts it on for a batch and takes it off."""
    #     model.weights("unet.out.2.weight", lambda weight: weight * 0.9)

    # def finish(self, image):
    #     """A finished picture, before it is saved. Import torch within a hook only: the server has none."""
    #     return image


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    spec = ModifierSpec("{name}", "{title}", Options, {cls}, order=100, help="What the switch does")
    host.add_modifier(spec)
'''


_HEAD = '''"""{title}: say here what it does. The guide is extensions/README.md."""

from __future__ import annotations

'''
_GUIDANCE = '''from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules import Guidance, Host, Modifier, ModifierSpec, Step, option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options:
    """Each option becomes a control in every tab, a field of the API, a key of the text, an axis of grids."""

    amount: float = option(0.7, "Amount", lo=0.0, hi=1.0, step=0.05, help="0: no effect")


class {cls}(Modifier):
    """One is made for each request in which it is switched on."""

    def __init__(self, options: Options):
        self.options = options

    def on_guidance(self, step: Step, positive: Tensor, negative: Tensor, scale: float, guidance: Guidance) -> Tensor:
        """x0 (n, c, h, w) of both prompts combined; here rescaled to the spread of the positive one
        (Lin et al. 2023, arXiv:2305.08891, section 3.4).
        """
        guided = guidance(positive, negative, scale)
        spread = positive.std((1, 2, 3), keepdim=True) / guided.std((1, 2, 3), keepdim=True).clamp(min=1e-12)
        return guided * (1 + self.options.amount * (spread - 1))


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    spec = ModifierSpec("{name}", "{title}", Options, {cls}, order=100, help="What the switch does")
    host.add_modifier(spec)
'''
_SAMPLER = '''from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from modules import Denoiser, Host, Noise, OnStep, SamplerSpec

if TYPE_CHECKING:
    from torch import Tensor


def sample(denoise: Denoiser, x: Tensor, sigmas: Sequence[float], *, noise: Noise, on_step: OnStep) -> Tensor:
    """Heun's method (Karras et al. 2022, arXiv:2206.00364, algorithm 1 without churn): write here what it is."""
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        denoised = denoise(x, sigma, i)
        on_step(i, x, sigma, denoised)
        slope = (x - denoised) / sigma
        moved = x + slope * (sigma_next - sigma)
        if sigma_next > 0:
            slope = (slope + (moved - denoise(moved, sigma_next, i)) / sigma_next) / 2
            moved = x + slope * (sigma_next - sigma)
        x = moved
    return x


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    host.add_sampler(SamplerSpec("{title}", sample, second_order=True))
'''
_SCRIPT = '''from dataclasses import dataclass

from modules import GenerationParams, Host, Round, ScriptContext, ScriptSpec, Sheet, Steps, option


@dataclass(frozen=True)
class Options:
    """Each option becomes a control of the script."""

    times: int = option(3, "Times", lo=1, hi=8, step=1, help="how many images, each with twice the steps")


def run(params: GenerationParams, options: Options, context: ScriptContext) -> Steps:
    """Yields rounds of requests, gets their outcomes, returns sheets. It must follow from its arguments alone."""
    steps = [min(params.steps * 2**n, 150) for n in range(options.times)]
    outcomes = yield Round([params.changed(steps=n) for n in steps])
    return [Sheet([f"{{n}} steps" for n in steps], [""], [outcomes])]


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    host.add_script(ScriptSpec("{name}", "{title}", Options, run, help="What it does"))
'''
_TAB = '''from dataclasses import dataclass

from modules import GenerationParams, Host, TabPage, TabSpec, option


@dataclass(frozen=True)
class Options:
    """Each option can become a control of the tab."""

    subject: str = option("a red fox", "Subject")
    steps: int = option(20, "Steps", lo=1, hi=150, step=1)


def build(page: TabPage) -> None:
    """Creates the components; any of Gradio's can be placed between. Import gradio here if you need it."""
    form = page.form(Options)
    form.add("subject")
    form.add("steps")

    def request(options: Options) -> GenerationParams:
        return page.params(prompt=options.subject, steps=options.steps)

    page.generate(form, request)


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    host.add_tab(TabSpec("{name}", "{title}", build))
'''
_ROUTE = '''from modules import GenerationParams, Host, RouteCall, RouteSpec, UserError


def submit(call: RouteCall) -> dict[str, str]:
    """POST /api/ext/{name}/submit with {{"prompt": "a red fox"}}: a job of whoever asks."""
    prompt = call.values.get("prompt")
    if not isinstance(prompt, str):
        raise UserError("there is no prompt", hint="send one", field="prompt")
    return {{"job": call.submit(GenerationParams(prompt=prompt))}}


def state(call: RouteCall) -> dict[str, object]:
    """GET /api/ext/{name}/state?job=NUMBER."""
    job = call.job(str(call.values.get("job", "")))
    return {{"state": job.state, "images": [path.name for path in job.images], "error": job.error}}


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    host.add_route(RouteSpec("submit", submit, "POST", caller=True))
    host.add_route(RouteSpec("state", state, caller=True))
'''
_DETAILER = '''from dataclasses import dataclass
from typing import TYPE_CHECKING

from modules import Host, ImageContext, Init, Mask, Modifier, ModifierSpec, option

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Options:
    """Each option becomes a control in every tab, a field of the API, a key of the text, an axis of grids."""

    prompt: str = option("", "Prompt", help="empty: that of the image")
    strength: float = option(0.4, "Denoising strength", lo=0.0, hi=1.0, step=0.01)


class {cls}(Modifier):
    """One is made for each request in which it is switched on."""

    def __init__(self, options: Options):
        self.options = options

    def after_image(self, image: Image, context: ImageContext) -> Image:
        """Paint what `find` found anew, at the model's own size."""
        mask, params = find(image), context.params
        init = Init(denoising_strength=self.options.strength, mask=Mask(only_masked=True))
        prompt = self.options.prompt or params.prompt
        within = params.changed(prompt=prompt, init=init, hires=None, batch_size=1, batch_count=1)
        return context.inpaint(image, mask, within)


def find(image: Image) -> Image:
    """A mask (mode L) of what is to be painted anew: white there. Replace this by your detector."""
    from PIL.Image import new

    mask = new("L", image.size)
    width, height = image.size
    mask.paste(255, (width // 4, height // 4, width * 3 // 4, height * 3 // 4))
    return mask


def register(host: Host) -> None:
    """Called once in the server and once in the worker."""
    spec = ModifierSpec("{name}", "{title}", Options, {cls}, order=200, help="What the switch does")
    host.add_modifier(spec)
'''
KINDS: Mapping[str, tuple[str, str]] = {
    "modifier": ("modifier", _MODIFIER),
    "guidance": ("modifier", _HEAD + _GUIDANCE),
    "sampler": ("sampler", _HEAD + _SAMPLER),
    "script": ("script", _HEAD + _SCRIPT),
    "tab": ("tab", _HEAD + _TAB),
    "route": ("route", _HEAD + _ROUTE),
    "detailer": ("modifier", _HEAD + _DETAILER),
}
"""The kinds of skeletons: the permission that each needs, and its code."""


def write_skeleton(folder: Path, name: str, kind: str = "modifier", others: Sequence[Path] = ()) -> Path:
    """Create the extension's folder below ``folder``; raises `UserError` if it exists or the name is invalid. ``kind``:
    one of `KINDS`. ``others``: further folders of extensions, whose names are taken.
    """
    if not NAME.fullmatch(name) or len(name) < 2:
        raise UserError(f"{name[:40]!r} is no name for an extension", hint="use small letters, digits and _")
    place = folder / name
    if place.exists():
        raise UserError(f"{place} is there already", hint="choose another name")
    if taken := next((other for other in folders_in(*others) if other.name == name), None):
        raise UserError(f"there is an extension {name} in {taken.parent}", hint="choose another name")
    if kind not in KINDS:
        raise UserError(f"there is no kind of extension {kind[:40]!r}", hint=f"there are {', '.join(KINDS)}")
    permission, code = KINDS[kind]
    words = name.replace("_", " ")
    facts = {"name": name, "title": words.capitalize(), "cls": words.title().replace(" ", ""), "permission": permission}
    place.mkdir(parents=True)
    (place / "extension.toml").write_text(MANIFEST.format(api=API, **facts), encoding="utf-8")
    (place / "__init__.py").write_text(code.format(**facts), encoding="utf-8")
    return place
