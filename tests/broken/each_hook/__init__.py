"""A modifier that goes wrong in the hook that it is told to."""

from contextlib import contextmanager
from dataclasses import dataclass

from modules import Modifier, ModifierSpec, Report, option

HOOKS = (
    *("make", "revise", "patch", "unpatch", "network", "call", "guidance", "denoiser", "finish", "answer", "exit"),
    *("interrupt", "report", "telling", "state"),
)


@dataclass(frozen=True)
class Options:
    hook: str = option("revise", "Hook", choices=HOOKS)


def fail(wanted, here):
    if wanted == here:
        raise ZeroDivisionError(f"in {here}")


class Broken(Modifier):
    def __init__(self, hook):
        self.hook = hook
        fail(hook, "make")

    def revise(self, params):
        fail(self.hook, "revise")
        return params

    @contextmanager
    def patch(self, model):
        fail(self.hook, "patch")
        yield
        fail(self.hook, "unpatch")

    def report(self):
        fail(self.hook, "report")
        return "a sentence" if self.hook == "telling" else Report()

    def state(self):
        fail(self.hook, "state")

    def network(self, network):
        fail(self.hook, "network")

        def call(x, sigma, cond):
            fail(self.hook, "call")
            answer = network(x, sigma, cond)
            return answer[..., :1] if self.hook == "answer" else answer

        return call

    def guidance(self, guidance):
        fail(self.hook, "guidance")
        return guidance

    def denoiser(self, denoiser):
        fail(self.hook, "denoiser")
        return denoiser

    def finish(self, image):
        fail(self.hook, "finish")
        if self.hook == "exit":
            raise SystemExit(3)
        if self.hook == "interrupt":
            raise KeyboardInterrupt
        return image


def register(host):
    host.add_modifier(ModifierSpec("each_hook", "Each hook", Options, lambda options: Broken(options.hook)))
