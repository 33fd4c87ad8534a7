"""First start: create ``.venv`` with the pinned packages and restart inside it. Also sets the umask that keeps written
files private.

Standard library only, for it runs before anything is installed. `ensure` returns at once where the interpreter already
has every pinned package. Otherwise it builds ``.venv`` beside the program; the file ``.venv/reprise.json`` is written
first, with nothing in it, and last, with the hash of each requirements file, so a start that was killed half way is
told from a finished one and built anew. It also keeps the index that torch came from, for the next time.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path
from typing import NoReturn

from modules import machine, torch_build
from modules.errors import RepriseError

log = logging.getLogger(__name__)

MARKER = "reprise.json"
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;]+)\s*(?:;\s*(.+))?")
_MARKER = re.compile(r"(sys_platform|python_version)\s*(==|!=|>=|<)\s*[\"']([^\"']+)[\"']")
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\[Errno (28|122)\]")
_OFFLINE = re.compile(
    r"NewConnectionError|ConnectTimeoutError|ReadTimeoutError|NameResolutionError|ProxyError|SSLError"
    r"|Max retries exceeded|Temporary failure in name resolution|Connection (refused|reset)|Network is unreachable"
)


class SetupError(RepriseError):
    """The virtual environment could not be created, and why."""


TORCH = "torch"
INDEX = "torch index"
"""The name under which the marker keeps the index that torch came from."""


def ensure(root: Path, files: Sequence[str] = ("requirements.txt",), *, torch_index: str = "") -> None:
    """Return if this interpreter has the packages that ``files`` (below ``root``) pin; else create ``.venv`` and
    restart in it.

    ``torch_index``: where torch is taken from, an address or a folder of wheels; without one from where it came the
    last time, or from pip's own index. A torch that is there stays, unless it came from another index than is named.
    """
    wanted = pins(root / name for name in files)
    environment = Environment(root / ".venv")
    elsewhere = bool(torch_index) and environment.torch_index != torch_index
    if (
        not elsewhere
        and not missing(wanted, sys.path)
        and not (environment.is_current() and environment.is_unfinished())
    ):
        return
    with _one_at_a_time(root) as lock:
        ready = environment.is_ready(root, files, wanted, torch_index)
        if not ready:
            environment.build(root, files, wanted, lock, torch_index)
    if ready and environment.is_current():
        names = ", ".join(missing(wanted, sys.path)[:3])
        raise SetupError(f"PYTHONPATH puts other versions in front of .venv ({names})", hint="unset it and start again")
    restart(environment.python)


SECRETS = ("settings.json", "settings.json.bad", "reprise.db*", "users.db*", "hashes.json")
"""Files of the data folder with password hashes, prompts or extensions' secrets; made private even if an older version,
or a copy, left them open."""


def keep_private(data_dir: Path) -> None:
    """Set the umask so that what this process and its children write is readable by its own user alone: a new data
    folder gets 0700, files in it 0600. Existing folders keep their modes, so an owner can share the outputs with other
    users; a default ACL (``setfacl -d``) overrides the umask.

    After `ensure`, for the packages in ``.venv`` hold no secret and may serve others.
    """
    os.umask(0o077)
    if os.name == "nt":
        return  # modes are Unix's; there a user's own folder is closed to others
    for path in (path for pattern in SECRETS for path in data_dir.glob(pattern)):
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
            if mode & 0o077:
                path.chmod(mode & 0o700)
        except OSError as error:  # another user's file, or a read-only disk: those who write it say more
            log.warning("%s can be read by others of this machine (%s)", path, error.strerror)


def pins(files: Iterable[Path]) -> dict[str, str]:
    """Package -> version of the ``name==version`` lines that apply to this system and Python."""
    found = {}
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            text = line.split("#")[0].strip()
            if not text or text.startswith("-"):
                continue
            match = _PIN.fullmatch(text)
            if not match:
                raise ValueError(f"{path.name}: not an exact pin: {line}")
            if match[3] is None or _applies(match[3]):
                found[_normal(match[1])] = match[2]
    return found


def _applies(marker: str) -> bool:
    """Evaluate the two environment markers that our files use; `packaging`, which knows all, is not installed yet."""
    match = _MARKER.fullmatch(marker.strip())
    if not match:
        raise ValueError(f"marker not understood: {marker}")
    subject, sign, value = match.groups()
    if subject == "sys_platform":
        return (sys.platform == value) == (sign == "==")
    here, there = sys.version_info[:2], tuple(int(part) for part in value.split("."))
    return {"==": here == there, "!=": here != there, ">=": here >= there, "<": here < there}[sign]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed(folders: Iterable[str]) -> dict[str, str]:
    """Installed packages and versions, from the names of the ``*.dist-info`` folders. This takes a few ms;
    `importlib.metadata`, which opens each folder, takes a hundred.
    """
    found: dict[str, str] = {}
    for folder in folders:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208 -- thousands of names, for which Path objects are slow
        except OSError:  # an entry of sys.path that is a zip file, or not there
            continue
        for name in names:
            if name.endswith(".dist-info"):
                package, _, version = name.removesuffix(".dist-info").rpartition("-")
                found.setdefault(_normal(package), version)
    return found


def missing(wanted: Mapping[str, str], folders: Iterable[str]) -> list[str]:
    """The pins that ``folders`` do not meet. A pin of 2.13.0 is met by the local build 2.13.0+cpu, as PEP 440 says."""
    have = installed(folders)
    return [
        f"{name}=={version}"
        for name, version in wanted.items()
        if version not in (have.get(name), have.get(name, "").partition("+")[0])
    ]


class Environment:
    """The virtual environment in ``.venv``."""

    def __init__(self, path: Path):
        self.path = path
        windows = os.name == "nt"
        self.python = path / ("Scripts/python.exe" if windows else "bin/python")
        self.packages = sysconfig.get_path("purelib", "venv", vars={"base": str(path), "platbase": str(path)})

    def is_current(self) -> bool:
        return Path(sys.prefix).resolve() == self.path.resolve()

    def is_unfinished(self) -> bool:
        marker = self._marker()
        return marker is not None and not marker.keys() - {INDEX}

    @property
    def torch_index(self) -> str:
        """Where torch was taken from; empty: pip's own index."""
        return (self._marker() or {}).get(INDEX, "")

    def is_ready(self, root: Path, files: Sequence[str], wanted: Mapping[str, str], torch_index: str = "") -> bool:
        """Whether the marker records an installation of ``files`` as they read now, with torch from ``torch_index`` if
        one is named, and the packages are there.
        """
        marker = self._marker()
        if marker and torch_index and marker.get(INDEX) != torch_index:
            return False
        if marker is None:  # made by its owner: used when it has all, never changed
            return self.python.exists() and not missing(wanted, [self.packages])
        return (
            all(marker.get(name) == digest for name, digest in self._digests(root, files).items())
            and self.python.exists()
            and not missing(wanted, [self.packages])
        )

    def build(
        self,
        root: Path,
        files: Sequence[str],
        wanted: Mapping[str, str],
        lock: int | None = None,
        torch_index: str = "",
    ) -> None:
        """Create or update the environment, and write the marker when everything is installed."""
        known = self.torch_index
        index = torch_index or known
        if TORCH in wanted and not index and (sentence := torch_build.choose(machine.look()).sentence):
            print(sentence[0].upper() + sentence[1:], file=sys.stderr)
        progress = Progress("Setting up Reprise (only once)")
        try:
            finished = self._start_marker(known, wanted)
            (self.path / "install.log").unlink(missing_ok=True)
            if not (finished and self.python.exists() and Path(self.packages).exists()):
                self._create(progress, lock)
            if TORCH in wanted and index and (index != known or missing({TORCH: wanted[TORCH]}, [self.packages])):
                anew = ["--force-reinstall"] if index != known else []
                torch = [*anew, "--no-deps", *_from(index), f"{TORCH}=={wanted[TORCH]}"]
                self._pip(torch, 1, progress, lock, ignored=_INDEXES)
                self._write_marker({INDEX: index})  # not before: one that has no torch is not kept
            # What torch's build needs beside our pins lies where it lies.
            more = ["--extra-index-url" if "://" in index else "--find-links", index] if index else []
            lists = [word for name in files for word in ("-r", str(root / name))]
            self._pip([*more, *lists], len(wanted), progress, lock)
            self._bring_back()
            if lacking := missing(wanted, [self.packages]):
                raise SetupError(f"pip ended well, yet {', '.join(lacking[:3])} did not arrive", hint=self._see_log())
            kept = {INDEX: index} if index else {}
            self._write_marker({**finished, **kept, **self._digests(root, files)})
        except OSError as error:
            raise _explained(error, self.path) from error
        except KeyboardInterrupt:
            raise SetupError("stopped before all was installed", hint="the next start begins anew") from None
        finally:
            progress.close()

    def _marker(self) -> dict[str, str] | None:
        """The marker's content; {} if the installation did not finish, None if the environment is not ours."""
        try:
            text = (self.path / MARKER).read_text(encoding="utf-8")
        except FileNotFoundError:
            nothing_there = not self.path.exists() or not any(self.path.iterdir())
            return {} if nothing_there else None
        try:
            return dict(json.loads(text))
        except ValueError:
            return {}

    def _start_marker(self, index: str, wanted: Mapping[str, str]) -> dict[str, str]:
        marker = self._marker()
        if marker is None:
            raise SetupError(
                f"{self.path} is not Reprise's own and lacks some of the packages in requirements.txt",
                hint=f"remove it, or install them: {self.python} -m pip install -r requirements.txt",
            )
        finished = {name: digest for name, digest in marker.items() if name != INDEX}
        if not finished and self.path.exists():
            self._put_aside({*wanted, "pip", "setuptools", "wheel"})
            shutil.rmtree(self.path)  # killed half way: pip would take a half-written package for a whole one
        self.path.mkdir(exist_ok=True)
        self._write_marker({INDEX: index} if index else {})
        return finished

    @property
    def _kept(self) -> Path:
        """Where the owner's packages wait while the environment is built anew."""
        return self.path.with_name(f"{self.path.name}.kept")

    def _put_aside(self, ours: Collection[str]) -> None:
        """Move what the owner installed here, which is none of ``ours``, to where a rebuild does not delete it."""
        for name, files in _distributions(self.path, Path(self.packages)).items():
            if name not in ours:
                _move(files, self.path, self._kept)

    def _bring_back(self) -> None:
        """Put the owner's packages back, but for those that have come with ours meanwhile."""
        if not self._kept.exists():
            return
        there = installed([self.packages])
        packages = self._kept / Path(self.packages).relative_to(self.path)
        for name, files in _distributions(self._kept, packages).items():
            if name not in there:
                _move(files, self._kept, self.path)
        shutil.rmtree(self._kept)

    def _write_marker(self, marker: Mapping[str, str]) -> None:
        part = self.path / f"{MARKER}.part"
        part.write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")
        part.replace(self.path / MARKER)

    @staticmethod
    def _digests(root: Path, files: Sequence[str]) -> dict[str, str]:
        return {name: hashlib.sha256((root / name).read_bytes()).hexdigest() for name in files}

    def _create(self, progress: Progress, lock: int | None) -> None:
        progress.say("making .venv")
        if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
            raise SetupError(
                "this Python cannot make virtual environments, its venv module is missing",
                hint="on Debian and Ubuntu: sudo apt install python3-venv",
            )
        base = getattr(sys, "_base_executable", "") or sys.executable
        # Into a folder that exists: the marker stays where it is. The child keeps the lock: should we be killed, the
        # next start waits for its end.
        command, held = [base, "-m", "venv", str(self.path)], () if lock is None else (lock,)
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", pass_fds=held)
        if done.returncode:
            raise failure_of(done.stdout + done.stderr, self.path, "python -m venv failed", "")

    def _pip(
        self,
        arguments: Sequence[str],
        count: int,
        progress: Progress,
        lock: int | None = None,
        ignored: Sequence[str] = (),
    ) -> None:
        """``pip install`` with these arguments, which bring about ``count`` packages. ``ignored``: variables of the
        environment that do not count.
        """
        command = [str(self.python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", *arguments]
        settings = {name: value for name, value in pip_settings().items() if name not in ignored}
        collected, output = set(), []
        with (
            (self.path / "install.log").open("a", encoding="utf-8") as log,
            subprocess.Popen(
                command,
                env={**settings, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                pass_fds=() if lock is None else (lock,),  # as in _create
            ) as pip,
        ):
            assert pip.stdout is not None
            for line in pip.stdout:
                log.write(line)
                output.append(line)
                if match := re.match(r"Collecting ([A-Za-z0-9._-]+)", line):
                    collected.add(match[1])
                    progress.say(f"fetching {match[1]} ({len(collected)} of {count})")
                elif line.startswith("Installing collected packages"):
                    progress.say(self._count(line.count(",") + 1))
                elif _OFFLINE.search(line):
                    progress.say("the package registry does not answer, trying again")
        if pip.returncode:
            raise failure_of("".join(output), self.path, "pip could not install the packages", self._see_log())

    def _count(self, coming: int) -> Callable[[], str]:
        """Number of packages installed so far, since pip itself prints nothing while it installs."""
        before = len(installed([self.packages]))
        return lambda: f"installing ({len(installed([self.packages])) - before} of {coming})"

    def _see_log(self) -> str:
        return f"see {self.path / 'install.log'}"


_INDEXES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX")
"""Where pip looks, but for what its command says."""


def _from(index: str) -> list[str]:
    """pip's words for an index alone, which may be a folder of wheels."""
    return ["--index-url", index] if "://" in index else ["--no-index", "--find-links", index]


class Progress:
    """A progress line on stderr with the elapsed time: rewritten on a terminal, elsewhere repeated rarely."""

    def __init__(self, title: str, *, every: float = 15.0):
        self._title, self._every = title, every
        self._text: Callable[[], str] = str  # gives ""
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._done = threading.Event()
        self._print()
        self._thread = threading.Thread(target=self._tick, daemon=True)
        self._thread.start()

    def say(self, text: str | Callable[[], str]) -> None:
        """Show ``text`` from now on; a callable is evaluated each time."""
        self._text = text if callable(text) else lambda: text

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self._print()
        if self._terminal:
            print(file=sys.stderr)

    def _tick(self) -> None:
        while not self._done.wait(0.25):
            if self._terminal or time.monotonic() - self._shown > self._every:
                self._print()

    def _print(self) -> None:
        self._shown = time.monotonic()
        minutes, seconds = divmod(int(self._shown - self._start), 60)
        line = ": ".join(part for part in (self._title, self._text()) if part) + f", {minutes}:{seconds:02}"
        width = shutil.get_terminal_size().columns - 1
        print(
            f"\r\x1b[K{line[:width]}" if self._terminal else line, end="" if self._terminal else "\n", file=sys.stderr
        )
        sys.stderr.flush()


@contextmanager
def _one_at_a_time(root: Path) -> Iterator[int | None]:
    """Lock ``root`` and return the descriptor. Windows has no such lock; there a second start fails."""
    if os.name == "nt":
        yield None
        return
    import fcntl

    lock = os.open(root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another start is installing; waiting for it.", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def restart(python: Path) -> NoReturn:
    """Run this same command again with the interpreter ``python``."""
    command = [str(python), *sys.argv]
    sys.stdout.flush()
    sys.stderr.flush()
    if os.name == "nt":  # exec on Windows would give the terminal back before the program ends
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def _explained(error: OSError, path: Path) -> SetupError:
    if error.errno in (ENOSPC, EDQUOT):
        return _disk_full(path)
    if error.errno in (EACCES, EPERM, EROFS):
        return SetupError(
            f"{path.parent} cannot be written to, so the packages cannot be installed there",
            hint="copy Reprise to a folder of your own",
        )
    return SetupError(f"{path} cannot be made: {error.strerror or error}")


def _distributions(root: Path, packages: Path) -> dict[str, list[Path]]:
    """The files below ``root`` of each package in ``packages`` that was installed to its end, by its name."""
    found = {}
    for record in packages.glob("*.dist-info/RECORD"):
        name = _normal(record.parent.name.removesuffix(".dist-info").rpartition("-")[0])
        with record.open(encoding="utf-8", newline="") as lines:
            paths = [Path(os.path.normpath(packages / row[0])) for row in csv.reader(lines) if row]
        found[name] = [path for path in paths if path.is_relative_to(root) and path.is_file()]
    return found


def _move(files: Iterable[Path], root: Path, target: Path) -> None:
    for path in files:
        place = target / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.replace(place)


def pip_settings() -> dict[str, str]:
    """The environment for pip, without what would make it install elsewhere than it is told."""
    elsewhere = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
    return {name: value for name, value in os.environ.items() if name not in elsewhere}


def failure_of(output: str, path: Path, what: str, hint: str) -> SetupError:
    """A `SetupError` with one sentence from the output of ``venv`` or ``pip``, which installed into ``path``."""
    if _FULL.search(output):
        return _disk_full(path)
    if "ensurepip is not available" in output:
        return SetupError("this Python has no venv module", hint="on Debian and Ubuntu: sudo apt install python3-venv")
    if _OFFLINE.search(output):
        return SetupError(
            "the package registry cannot be reached",
            hint="check the network, or name a mirror in PIP_INDEX_URL, and start again",
        )
    if absent := re.search(r"No matching distribution found for (\S+)", output):
        version = ".".join(str(part) for part in sys.version_info[:2])
        return SetupError(
            f"the package registry has no {absent[1]} for Python {version} on this system",
            hint="use Python 3.11, 3.12 or 3.13, or another registry",
        )
    errors = [line.removeprefix("ERROR:").strip() for line in output.splitlines() if line.startswith("ERROR:")]
    return SetupError(f"{what}: {errors[-1].rstrip('.') if errors else 'it did not say why'}", hint=hint)


def _disk_full(path: Path) -> SetupError:
    free = shutil.disk_usage(path.parent).free / 1e9
    return SetupError(
        f"the disk is full: {free:.1f} GB are free in {path.parent} and the packages need several",
        hint="make room (the temporary folder counts too; TMPDIR names another) and start again",
    )
