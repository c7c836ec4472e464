"""Does a killed or damaged study always end with exact steps, or with one clear line?

Method     HalfCheetah 2x3, LoRASA in two phases, 60 iterations of 200 environment steps, a checkpoint every sixth one.
           kill      SIGKILL to the study and all of Ray's processes, several times a run: one in four at any moment
                     from the start on, the others once it trains; of all, every second one as soon as a file is being
                     written into a checkpoint or an experiment's state
           damage    a killed study with one file emptied, truncated, overwritten or removed
           full      a storage that fills up (tmpfs; file sizes limited where mounting is not allowed), then has room
           readonly  a storage that becomes read-only, then writable again (where mounting is allowed)
           After each, --resume must end with every step counted once, or with an exit status other than 0 and one line
Run        python benchmarks/chaos.py [--kills 40] [--minutes 60] [--csv FILE]; continues where FILE ends
Expect     "exact" or "one line" in every row of the table, otherwise exit status 1
Recorded   results/chaos/
"""

from __future__ import annotations

import argparse
import csv
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

ROOT = Path(__file__).parents[1]
BATCH, ITERATIONS = 200, 60
STEPS = BATCH * ITERATIONS
LIMIT = 180.0
"""Maximum seconds for one start of the study."""

STUDY = [
    sys.executable, str(ROOT / "tune_configs/mamujoco.py"), "--total-env-steps", str(STEPS), "--phase-switch", "0.5",
    "--num-envs-per-env-runner", "4", "--set", f"train_batch_size_per_learner={BATCH}", "minibatch_size=100",
    "num_epochs=2", "--evaluation-interval", "10", "--env-set", "max_episode_steps=50",
]  # fmt: skip
TRIAL = "HalfCheetah-2x3_lora_seed1"


@dataclass
class Row:
    """One trial of the benchmark. outcome: "exact", "one line", or the problem."""

    number: int
    kind: str
    what: str
    kills: int
    steps: int
    outcome: str
    line: str
    seconds: float


class Study:
    """The study in its own storage."""

    def __init__(self, storage: Path, name: str = "chaos"):
        self.storage, self.name, self.folder = storage, name, storage / name
        self.process: subprocess.Popen[str] | None = None

    def start(self, *more: str, file_size: int | None = None) -> subprocess.Popen[str]:
        self.temporary = tempfile.mkdtemp(prefix="rc", dir="/tmp")  # short, as it holds sockets
        environment = {**os.environ, "RAY_TMPDIR": self.temporary, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
        environment["RAY_ADDRESS"] = "local"
        limit = None if file_size is None else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_size,) * 2)
        self.process = subprocess.Popen(
            [*STUDY, "--storage-path", str(self.storage), "--name", self.name, *more], env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=limit,
        )  # fmt: skip
        return self.process

    def kill(self) -> str:
        """Kills the study and its Ray processes. Returns its output so far."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in _of_session(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        output = self.process.communicate()[0]
        shutil.rmtree(self.temporary, ignore_errors=True)
        return output

    def finish(self, *more: str) -> tuple[int, str]:
        """Runs the study to the end. Returns exit status and output."""
        process = self.start(*more)
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return -1, f"hangs: {self.kill()[-300:]}"
        shutil.rmtree(self.temporary, ignore_errors=True)
        return process.returncode, output

    def writing(self) -> bool:
        """Whether a file is being written, or was within the last 20 ms."""
        for place in (self.folder, *self.folder.glob(f"{TRIAL}/checkpoint_*")):
            with suppress(OSError):
                if time.time() - place.stat().st_mtime < 0.02:
                    return True
        return False

    def trained_since(self, moment: float) -> bool:
        """Whether the trial has saved a checkpoint since then (seconds since 1970)."""
        for place in self.folder.glob(f"{TRIAL}/checkpoint_*"):
            with suppress(OSError):
                if place.stat().st_mtime > moment:
                    return True
        return False

    def steps_in_state(self) -> bool:
        """Whether the experiment's state names a checkpoint."""
        states = sorted(self.folder.glob("experiment_state-*.json"))
        return bool(states) and b"checkpoint_dir_name" in states[-1].read_bytes()

    def steps(self) -> list[int]:
        with (self.folder / "curves.csv").open(newline="") as file:
            return [int(row["env_steps"]) for row in csv.DictReader(file)]


def _of_session(session: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=", "-s", str(session)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def judged(study: Study, status: int, output: str) -> tuple[str, str]:
    """The outcome of a study's last start, and its last line."""
    lines = [line for line in output.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    if "Traceback" in output:
        return "traceback", last
    if status == 0:
        steps = study.steps()
        ok = steps == list(range(BATCH, STEPS + 1, BATCH))
        told = next((line for line in lines if "damaged" in line or "missing" in line or "begins" in line), "")
        if not ok and (lost := next((line for line in lines if "are lost to the curves" in line), "")):
            return "one line", lost
        return ("exact" if ok else f"wrong steps: {steps}"), told
    complaint = [line for line in lines if line.startswith("mamujoco.py:")]
    return ("one line" if len(complaint) == 1 else f"{len(complaint)} lines, status {status}"), last


def killed(rng: random.Random, storage: Path, kills: int) -> tuple[Study, int]:
    """A study killed up to `kills` times between resumptions, and the number of kills."""
    study, done = Study(storage), 0
    for _ in range(kills):
        process, at_writes, early = study.start("--resume"), rng.random() < 0.5, rng.random() < 0.25
        began, wait = time.time(), rng.uniform(3.0, 14.0) if early else rng.uniform(0.0, 6.0)
        trains = began if early else None
        while time.time() - began < LIMIT and process.poll() is None:
            if trains is None:
                trains = time.time() if study.trained_since(began) else None
            elif time.time() - trains > wait and (not at_writes or study.writing()):
                time.sleep(rng.uniform(0, 0.03) if at_writes else 0)
                break
            time.sleep(0.001)
        done += process.poll() is None
        study.kill()
        if process.returncode == 0:
            break
    return study, done


def last_checkpoint(folder: Path) -> Path:
    return max((folder / TRIAL).glob("checkpoint_*"))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: max(1, file.stat().st_size // 2)])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "newest state emptied": lambda f: max(f.glob("experiment_state-*")).write_bytes(b""),
    "newest state cut": lambda f: cut(max(f.glob("experiment_state-*"))),
    "all states emptied": lambda f: [file.write_bytes(b"") for file in f.glob("experiment_state-*")],
    "searcher's state cut": lambda f: cut(max(f.glob("basic-variant-state-*"))),
    "tuner.pkl emptied": lambda f: (f / "tuner.pkl").write_bytes(b""),
    "tuner.pkl overwritten": lambda f: (f / "tuner.pkl").write_bytes(b"not a pickle"),
    "settings.json emptied": lambda f: (f / "study/settings.json").write_bytes(b""),
    "lock left behind": lambda f: (f / "study/lock.json").write_text('{"host": "elsewhere", "pid": 1, "renewed": 1}'),
    "result.json cut": lambda f: cut(f / TRIAL / "result.json"),
    "result.json ends in zeros": lambda f: (f / TRIAL / "result.json").open("ab").write(b"\0" * 4000),
    "last checkpoint removed": lambda f: shutil.rmtree(last_checkpoint(f)),
    "a file of the last checkpoint cut": lambda f: cut(last_checkpoint(f) / "learner_group/learner/state.pkl"),
    "weights of the last checkpoint flipped": lambda f: flip(
        last_checkpoint(f) / "learner_group/learner/rl_module/shared_policy/module_state.pkl"
    ),
    "last checkpoint without its list": lambda f: (last_checkpoint(f) / "files.json").unlink(),
    "all checkpoints emptied": lambda f: [
        (path / "algorithm_state.pkl").write_bytes(b"") for path in (f / TRIAL).glob("checkpoint_*")
    ],
}


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def _mounted(storage: Path, size: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(storage)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _remount(storage: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(storage)], check=True, capture_output=True)


def run_kill(rng: random.Random, storage: Path, kills: int) -> tuple[Row, Study]:
    study, done = killed(rng, storage, kills)
    outcome, line = judged(study, *study.finish("--resume"))
    return Row(0, "kill", f"{kills} times", done, 0, outcome, line, 0), study


def run_damage(rng: random.Random, storage: Path, what: str) -> tuple[Row, Study]:
    study, done = Study(storage), 0
    process = study.start()
    began = time.monotonic()
    while process.poll() is None and time.monotonic() - began < LIMIT:
        if len(list(study.folder.glob(f"{TRIAL}/checkpoint_*/files.json"))) >= 2 and study.steps_in_state():
            break
        time.sleep(0.01)
    done += process.poll() is None
    study.kill()
    DAMAGES[what](study.folder)
    outcome, line = judged(study, *study.finish("--resume"))
    return Row(0, "damage", what, done, 0, outcome, line, 0), study


def run_storage(rng: random.Random, storage: Path, what: str) -> tuple[Row, Study]:
    """full: 1.5 MB; readonly: from a random moment on. Both must end in one line and continue once writable."""
    study, mounted = Study(storage), _mounted(storage, "1500k" if what == "full" else "64m")
    if not mounted and what == "readonly":
        return Row(0, what, "mounting is not allowed here", 0, 0, "left out", "", 0), study
    try:
        process = study.start(file_size=None if mounted else 60_000)
        if what == "readonly":
            time.sleep(rng.uniform(6, 12))
            _remount(storage, "ro")
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            return Row(0, what, "", 0, 0, f"hangs: {study.kill()[-300:]}", "", 0), study
        first, line = judged(study, process.returncode, output)
        if first != "one line":
            return Row(0, what, "", 0, 0, first, line, 0), study
        if mounted:
            _remount(storage, "rw,size=64m")
        outcome, _ = judged(study, *study.finish("--resume"))
        return Row(0, what, "", 0, study.steps()[-1] if outcome == "exact" else 0, outcome, line, 0), study
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(storage)], check=False)


def plan(kills: int) -> list[tuple[str, str]]:
    kinds = [("kill", "4")] * -(-kills // 4)
    kinds += [("damage", what) for what in DAMAGES]
    return kinds + [("full", ""), ("readonly", "")] * 2


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=60, help="after which nothing new begins")
    parser.add_argument("--only", nargs="+", help="kinds, or names of damages")
    parser.add_argument("--csv", type=Path, default=ROOT / "results/chaos/chaos.csv")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    if options.csv.exists():
        with options.csv.open(newline="") as file:
            rows = list(csv.DictReader(file))
    done, began, bad = {int(row["number"]) for row in rows}, time.monotonic(), 0
    for number, (kind, what) in enumerate(plan(options.kills)):
        if number in done or (options.only and not {kind, what} & set(options.only)):
            continue
        if time.monotonic() - began > 60 * options.minutes:
            print("time is up: run the same command to continue")
            break
        storage, started = Path(tempfile.mkdtemp(prefix="chaos_")), time.monotonic()
        rng = random.Random(1000 * options.seed + number)
        try:
            if kind == "kill":
                row, study = run_kill(rng, storage, int(what))
            elif kind == "damage":
                row, study = run_damage(rng, storage, what)
            else:
                row, study = run_storage(rng, storage, kind)
            if row.outcome == "exact" and (study.folder / "curves.csv").exists():
                row.steps = max(study.steps())
        finally:
            shutil.rmtree(storage, ignore_errors=True)
        row.number, row.seconds = number, round(time.monotonic() - started, 1)
        bad += row.outcome not in ("exact", "one line", "left out")
        line = {name: value for name, value in asdict(row).items()}
        line["line"] = str(line["line"]).replace(str(storage), "STORAGE")[:200]
        new = not options.csv.exists()
        with options.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            if new:
                writer.writeheader()
            writer.writerow(line)
        print(*line.values(), sep=" | ", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
