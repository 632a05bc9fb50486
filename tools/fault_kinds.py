"""The faults of ``faults.py``: each disturbs one command, and checks how it ended; what it left is checked after."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from fault_portraits import Portrait
from fault_runs import Ended, Running, Starter
from fault_verbs import Verb, filled

BALLAST = "ballast"
DAY = 86_400.0
FLUSHED = ("last.ckpt", "encoder.safetensors")
"""Files that are flushed to the disk before they get their names: a power cut tears none of them."""


class Failed(Exception):
    """What a command should not have done."""


@dataclass(frozen=True, slots=True)
class Profile:
    """An undisturbed run: its processor seconds until it wrote something and until the end, what it left and said."""

    appeared: float
    whole: float
    portrait: Portrait
    lines: tuple[str, ...]
    size: int


@dataclass(slots=True)
class Trial:
    """One fault: the command, where it writes, what it reads, and the numbers to draw from.

    ``clock`` is the file that a moving clock follows.
    """

    verb: Verb
    extra: tuple[str, ...]
    out: Path
    places: Mapping[str, Path]
    profile: Profile
    draw: random.Random
    starter: Starter
    clock: Path

    def start(self, *, clock: Path | None = None) -> Running:
        """Start the command."""
        return self.starter.start(*filled(self.verb.words, self.places), *self.extra, clock=clock)

    def moment(self) -> float:
        """Processor seconds: shortly before the first write at the earliest, shortly before the end at the latest."""
        return self.draw.uniform(0.9 * self.profile.appeared, 0.97 * self.profile.whole)

    def reach(self, running: Running) -> bool:
        """Wait for a random moment; whether the command is at work there."""
        found = running.until(self.moment())
        time.sleep(self.draw.uniform(0, 0.02))  # it may also be waiting for the disk
        return found and running.at_work

    def ended(self, running: Running, *codes: int) -> Ended:
        """Its end, with one of ``codes``, one line where it failed, and nobody left behind."""
        done = running.end()
        if left := running.orphans():
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise Failed(f"{len(left)} processes outlived the command")
        if done.code not in codes:
            raise Failed(f"exit code {done.code} where {' or '.join(map(str, codes))} is expected: {done.err[-600:]!r}")
        self._require_few_words(done)
        return done

    def _require_few_words(self, done: Ended) -> None:
        lines = [line for line in done.lines if line not in self.profile.lines]
        allowed = {0: 0, -9: 0, -15: 0}.get(done.code, 1)
        if len(lines) > allowed or any("unexpected" in line or "Traceback" in line for line in lines):
            raise Failed(f"exit code {done.code} with {len(lines)} lines: {done.err[-600:]!r}")
        if done.code > 0 and not lines:
            raise Failed(f"exit code {done.code} and no word")


Fault = Callable[[Trial], bool]
"""Disturbs; whether the command was at work. Raises ``Failed``."""


def kill(trial: Trial) -> bool:
    """kill -9, up to three times in a row."""
    struck = False
    for _ in range(trial.draw.choice((1, 1, 2, 3))):
        running = trial.start()
        struck |= trial.reach(running)
        running.send(signal.SIGKILL)
        trial.ended(running, -signal.SIGKILL, 0)
    return struck


def kill_worker(trial: Trial) -> bool:
    """kill -9 of one worker process."""
    running = trial.start()
    while running.at_work and not running.workers():
        time.sleep(0.005)
    struck, workers = trial.reach(running), running.workers()
    if workers:
        with suppress(ProcessLookupError):
            os.kill(trial.draw.choice(workers), signal.SIGKILL)
    trial.ended(running, 0, 1)
    return struck and bool(workers)


def terminate(trial: Trial) -> bool:
    """SIGTERM: an end by the signal, or exit code 75 after a last checkpoint."""
    running = trial.start()
    struck = trial.reach(running)
    running.send(signal.SIGTERM)
    trial.ended(running, -signal.SIGTERM, 75, 0)
    return struck


def interrupt(trial: Trial) -> bool:
    """Ctrl-C: exit code 130 and one line."""
    running = trial.start()
    struck = trial.reach(running)
    running.send(signal.SIGINT)
    trial.ended(running, 130, 0)
    return struck


def pause(trial: Trial) -> bool:
    """SIGSTOP and SIGCONT, of the command or of all its processes, several times."""
    running, struck = trial.start(), False
    for moment in sorted(trial.moment() for _ in range(3)):
        if not running.until(moment):
            break
        struck |= running.at_work
        send = os.killpg if trial.draw.random() < 0.5 else os.kill
        for number in (signal.SIGSTOP, signal.SIGCONT):
            with suppress(ProcessLookupError):
                send(running.pid, number)
            time.sleep(trial.draw.uniform(0.1, 0.7) if number == signal.SIGSTOP else 0)
    trial.ended(running, 0)
    return struck


def disk_full(trial: Trial) -> bool:
    """A disk that is too small, or that somebody else fills while the command is at work."""
    base = size_of(trial.out)
    room = base + int((trial.profile.size - base) * trial.draw.uniform(0.02, 0.98))
    filled_later = trial.draw.random() < 0.5
    if filled_later:
        room = 2 * trial.profile.size + 2**20
    with small_disk(trial.out, str(max(room, 8192))) as resize:
        running = trial.start()
        if filled_later:
            trial.reach(running)
            running.send(signal.SIGSTOP)  # it is not to end while its disk is filled
            _fill(trial.out / BALLAST)
            running.send(signal.SIGCONT)
        done = trial.ended(running, 0, 1)
        if done.code and not any(
            words in done.err for words in ("no space left", " free;", "part failed", "parts fail")
        ):
            raise Failed(f"a full disk is not named: {done.err[-600:]!r}")
        (trial.out / BALLAST).unlink(missing_ok=True)
        resize("256m")
        again = trial.ended(trial.start(), 0)
        return bool(done.code) and not again.code


def read_only(trial: Trial) -> bool:
    """An output that cannot be written: from the start, or from a random moment on."""
    running = trial.start() if trial.draw.random() < 0.7 else None
    if running is not None:
        trial.reach(running)
    with frozen(trial.out):
        done = trial.ended(running or trial.start(), 0, 1)
    return bool(done.code)


def vanish(trial: Trial) -> bool:
    """A file that is read goes away while the command is at work, and comes back after it has ended."""
    place = trial.places[trial.draw.choice(trial.verb.vanishing)]
    candidates = sorted(p for p in place.rglob("*") if p.is_file() and p.name not in (".lock", "costs.json"))
    chosen = trial.draw.choice(candidates)
    running = trial.start()
    struck = trial.reach(running)
    with gone(chosen):
        trial.ended(running, 0, 1, 3)
    return struck


def two_writers(trial: Trial) -> bool:
    """A second command starts on the same output: one of them ends it, the other agrees or is refused in one line."""
    first = trial.start()
    struck = first.until(trial.draw.uniform(0, trial.profile.whole))
    second = trial.start()
    codes = {trial.ended(running, 0, 1).code for running in (first, second)}
    if 0 not in codes:
        raise Failed("both of two writers failed")
    return struck


def clock_jumps(trial: Trial) -> bool:
    """The clock jumps years ahead and back while the command is at work."""
    trial.clock.write_text(_offset(trial.draw))
    running, struck = trial.start(clock=trial.clock), False
    for moment in sorted(trial.moment() for _ in range(3)):
        struck |= running.until(moment)
        trial.clock.write_text(_offset(trial.draw))
    if trial.draw.random() < 0.5:
        running.send(signal.SIGKILL)
        trial.ended(running, 0, -signal.SIGKILL)
    else:
        trial.ended(running, 0)
    return struck


def strange_times(trial: Trial) -> bool:
    """After kill -9, everything that was read and written is dated years ahead, or long ago."""
    struck = kill(trial)
    when = time.time() + trial.draw.choice((-9_000, -1, 1, 4_000)) * DAY
    inputs = [path for name in trial.verb.vanishing for path in trial.places[name].rglob("*")]
    for path in (*inputs, *trial.out.rglob("*")):
        os.utime(path, (when, when))
    return struck


def torn(trial: Trial) -> bool:
    """A power cut: after kill -9, the file that was written last is cut short, and so are half-written ones."""
    kill(trial)
    files = [p for p in trial.out.rglob("*") if p.is_file() and p.name not in (".lock", *FLUSHED)]
    own = {trial.out / path.name for path in (trial.places[name] for name in trial.verb.own)}
    files = sorted((p for p in files if not own & set(p.parents)), key=lambda path: path.stat().st_mtime_ns)
    for path in {*files[-1:], *(p for p in files if ".partial" in str(p))}:
        safe, size = _safe_bytes(path), path.stat().st_size
        os.truncate(path, safe + int((size - safe) * trial.draw.choice((0.0, trial.draw.random()))))
    return bool(files)


def lost_shard(trial: Trial) -> bool:
    """A power cut on a disk that lied: the last shard's marker is whole, and a file of its data is cut short."""
    kill(trial)
    marked = sorted(trial.out.rglob("ledger/[0-9]*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not marked:
        return False
    shard = marked[-1].parent.parent / "shards" / marked[-1].stem
    chosen = trial.draw.choice(sorted(p for p in shard.rglob("*") if p.is_file() and p.stat().st_size))
    os.truncate(chosen, trial.draw.randrange(chosen.stat().st_size))
    return True


def _offset(draw: random.Random) -> str:
    """Seconds, of hours or years, back or ahead."""
    return str(draw.choice((-1, 1)) * draw.choice((3_600, 40 * DAY, 4_000 * DAY)))


def _safe_bytes(path: Path) -> int:
    """What a power cut cannot take: of curves what was flushed before the last checkpoint, at most the last line."""
    checkpoint, data = path.with_name("last.ckpt"), path.read_bytes()
    if path.name != "metrics.csv":
        return 0
    if checkpoint.exists() and checkpoint.stat().st_mtime_ns >= path.stat().st_mtime_ns:
        return len(data)
    return data[:-1].rfind(b"\n") + 1


def size_of(folder: Path) -> int:
    """Bytes on a tmpfs: files take whole pages, folders none."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _fill(ballast: Path) -> None:
    """Take all that is free."""
    with open(ballast, "wb") as file, suppress(OSError):
        while True:
            file.write(bytes(65_536))
            file.flush()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A disk of its own for ``folder``, whose content goes there and comes back; yields what gives it another size."""
    aside = folder.with_name(f"{folder.name}-aside")
    shutil.copytree(folder, aside)
    mount("-t", "tmpfs", "-o", "size=256m", "none", str(folder))
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        mount("-o", f"remount,size={size}", str(folder))
        yield lambda size: mount("-o", f"remount,size={size}", str(folder))
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder)
        os.rename(aside, folder)


def mount(*words: str) -> None:
    """Mount, or raise ``OSError`` with what mount says."""
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"mount {' '.join(words)}: {done.stderr.strip()}")


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Nothing below ``folder`` can be written, made, renamed or removed."""
    subprocess.run(["chattr", "-R", "-f", "+i", str(folder)], check=False, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-R", "-f", "-i", str(folder)], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def gone(path: Path) -> Iterator[None]:
    """``path`` is not there."""
    aside = path.with_name(f".{path.name}.away")
    os.rename(path, aside)
    try:
        yield
    finally:
        os.rename(aside, path)


FAULTS: dict[str, tuple[Fault, int]] = {
    "kill -9": (kill, 4),
    "kill -9 of a worker": (kill_worker, 2),
    "SIGTERM": (terminate, 2),
    "SIGINT": (interrupt, 1),
    "SIGSTOP and SIGCONT": (pause, 2),
    "disk full": (disk_full, 3),
    "read-only output": (read_only, 2),
    "vanishing input": (vanish, 3),
    "two writers": (two_writers, 3),
    "clock jumps": (clock_jumps, 2),
    "file times far off": (strange_times, 1),
    "torn last file": (torn, 2),
    "torn last shard": (lost_shard, 1),
}
"""Name -> the fault, and how often it is drawn."""
