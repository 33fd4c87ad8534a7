"""Which build of torch fits a machine, and whether pip's own index has it. Standard library only.

The program carries no address of an index: pip's settings name one, and ``--torch-index`` names another for torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.machine import Machine

CUDA, ROCM, XPU, MPS, CPU = "CUDA", "ROCm", "XPU", "MPS", "CPU"
_BUILDS = {"NVIDIA": CUDA, "AMD": ROCM, "Intel": XPU, "Apple": MPS}
_TAGS = {"+cu": CUDA, "+rocm": ROCM, "+xpu": XPU, "+cpu": CPU}


@dataclass(frozen=True)
class Choice:
    """The build for a machine, and what pip's index has for its system."""

    wanted: str
    """CUDA, ROCm, XPU, MPS or CPU."""
    default: str
    card: str = ""
    """What it is for: "NVIDIA GeForce RTX 4070"."""

    @property
    def fits(self) -> bool:
        """Whether what the default index has uses the machine's card."""
        return self.wanted in (self.default, CPU)

    @property
    def sentence(self) -> str:
        """What is missing and what it costs; empty where nothing is.

        >>> print(Choice("ROCm", "CUDA", "AMD card").sentence.partition(", ")[0])
        torch for this machine's AMD card (ROCm) is not what pip's index has
        >>> Choice("CUDA", "CUDA", "NVIDIA card").sentence
        ''
        """
        if not self.fits:
            return (
                f"torch for this machine's {self.card} ({self.wanted}) is not what pip's index has, so images are made "
                "on the processor, some ten to a hundred times slower; name an index that has it with --torch-index URL"
            )
        if self.wanted == CPU and self.default == CUDA:
            return (
                "this machine has no card that torch can use, and pip's index has the build for NVIDIA's, which takes "
                "some 5 GB of the disk more than is needed; name an index that has the CPU build with --torch-index URL"
            )
        return ""


def choose(machine: Machine) -> Choice:
    """The build for the best card of a machine: what pip's index has counts first, then the order of the system."""
    default = default_build(machine)
    cards = [(_BUILDS[card.vendor], card.name or f"{card.vendor} card") for card in machine.cards]
    if machine.system == "win32":  # there is no build with ROCm
        cards = [card for card in cards if card[0] != ROCM]
    cards.sort(key=lambda card: card[0] != default)
    wanted, name = cards[0] if cards else (CPU, "")
    return Choice(wanted, default, name)


def default_build(machine: Machine) -> str:
    """What pip finds on the index that everybody uses: on Linux with NVIDIA's libraries, elsewhere without such."""
    if machine.system == "darwin":
        return MPS if machine.architecture == "arm64" else CPU
    return CUDA if machine.system.startswith("linux") and machine.architecture in ("x86_64", "amd64") else CPU


def build_of(version: str, machine: Machine) -> str:
    """The build that an installed version is; one without a tag came from the default index.

    >>> from modules.machine import Ram
    >>> build_of("2.13.0+cpu", Machine("linux", "x86_64", Ram(0, 0)))
    'CPU'
    """
    return next((build for tag, build in _TAGS.items() if tag in version), default_build(machine))
