"""A fake PBS: `qsub`, `qstat`, `qdel` and `qselect` that really run the scripts, one process for each job.

It speaks the dialect of OpenPBS 23.06.06 as far as that was seen, and of Torque if asked to. All its state is files
in one directory, so there is no server that could be forgotten; `FakePbs` makes such a directory and its programs.
Switches are files in it: `down`, `garbage`, `silent`, `no_history`, `no_json`, `hold`, `never`, `lose_answer`, `full`,
`torque`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any

PROGRAMS = ("qsub", "qstat", "qdel", "qselect")
SERVER = "pbs"
JOB_MARK = "FAKE_PBS_JOB"
SERVER_MARK = "FAKE_PBS_SERVER"
_PAUSE = Event()
_TICK = 0.02
_WEIGHING = 1.0
"""Seconds between two looks at the memory of a job, each of which reads all of /proc."""
_KILL_DELAY = 0.3
_OVER = ("F", "C")


class FakePbs:
    """A directory with the programs and the state; put `bin` on the search path."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.bin = directory / "bin"
        self.bin.mkdir(parents=True)
        (directory / "jobs").mkdir()
        for program in PROGRAMS:
            words = [sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(directory), program]
            (self.bin / program).write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
            (self.bin / program).chmod(0o755)

    @contextmanager
    def switched(self, switch: str) -> Iterator[None]:
        (self.directory / switch).touch()
        try:
            yield
        finally:
            (self.directory / switch).unlink()

    def calls(self, program: str) -> int:
        log = self.directory / "calls"
        return log.read_text().splitlines().count(program) if log.exists() else 0

    def arguments(self, name: str) -> list[str]:
        """What `qsub` was given for the job of this name."""
        [found] = [job for job in self.jobs() if job["Job_Name"] == name]
        arguments: list[str] = found["argv"]
        return arguments

    def jobs(self) -> list[dict[str, Any]]:
        return _all_jobs(self.directory)

    @property
    def mark(self) -> str:
        """In the environment of every process of every job."""
        return f"{SERVER_MARK}={self.directory}"

    def delete_all(self) -> None:
        """End what a test may have left."""
        for job in self.jobs():
            if job["job_state"] not in _OVER:
                (_place(self.directory, job["id"]) / "delete").touch()


# --- files -----------------------------------------------------------------------------------------------------------


def _place(root: Path, number: str) -> Path:
    return root / "jobs" / number.partition(".")[0]


def _read(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "job.json").read_text())
    return found


def _write(place: Path, job: dict[str, Any]) -> None:
    part = place / f".job.{os.getpid()}"
    part.write_text(json.dumps(job))
    part.replace(place / "job.json")


def _all_jobs(root: Path) -> list[dict[str, Any]]:
    numbers = sorted((path.name for path in (root / "jobs").iterdir() if (path / "job.json").exists()), key=int)
    return [_read(root / "jobs" / number) for number in numbers]


def _known(root: Path, number: str) -> dict[str, Any] | None:
    """The job, unless the server has forgotten it."""
    try:
        job = _read(_place(root, number))
    except (OSError, ValueError):
        return None
    forgotten = (root / "no_history").exists() and job["job_state"] in _OVER
    return None if forgotten or job["id"] != number else job


def _answer(text: str) -> int:
    sys.stdout.write(text + "\n")
    return 0


def _say(text: str, code: int) -> int:
    sys.stderr.write(text + "\n")
    return code


def _now() -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.gmtime())


# --- qsub ------------------------------------------------------------------------------------------------------------


def _qsub(root: Path, argv: Sequence[str]) -> int:
    job: dict[str, Any] = {"Job_Name": "STDIN", "queue": "workq", "Resource_List": {}, "argv": list(argv), "output": ""}
    rest = list(argv)
    while rest and rest[0].startswith("-"):
        flag, value = rest.pop(0), rest.pop(0)
        if flag == "-N":
            job["Job_Name"] = value
        elif flag == "-o":
            job["output"] = value
        elif flag == "-q":
            job["queue"] = value
        elif flag == "-l":
            name, _, what = value.partition("=")
            job["Resource_List"][name] = what
        elif flag not in ("-S", "-r", "-m", "-j", "-A", "-P", "-p"):
            return _say(f"qsub: invalid option -- '{flag}'\nusage: qsub ...", 2)
    if job["queue"] != "workq":
        return _say("qsub: Unknown queue", 170)
    if (root / "full").exists():
        return _say("qsub: Maximum number of jobs already in queue", 198)
    if len(rest) != 1 or not Path(rest[0]).exists():
        return _say(f"qsub: script file:: No such file or directory: {rest}", 1)
    number = f"{_next(root)}.{SERVER}"
    place = _place(root, number)
    place.mkdir()
    (place / "script").write_bytes(Path(rest[0]).read_bytes())
    job |= {"id": number, "job_state": "Q", "substate": 10, "ctime": _now(), "mtime": _now()}
    _write(place, job)
    subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, str(root), "mom", number],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=(root / "mom.log").open("ab"),
        env={"PATH": "/usr/bin:/bin", SERVER_MARK: str(root)}, cwd="/", start_new_session=True,
    )  # fmt: skip
    if (root / "lose_answer").exists():
        return _say("qsub: Batch protocol error", 31)
    return _answer(number)


def _next(root: Path) -> int:
    with (root / "sequence").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 0)
        file.truncate(0)
        file.write(str(number + 1))
    return number


# --- qstat, qselect, qdel --------------------------------------------------------------------------------------------


def _qstat(root: Path, argv: Sequence[str]) -> int:
    torque = (root / "torque").exists()
    if "--version" in argv:
        return _say("Version: 6.1.2", 0) if torque else _answer("pbs_version = 23.06.06")
    if "-Q" in argv:
        return _answer(_queues(root))
    if (torque and "-x" in argv) or ((torque or (root / "no_json").exists()) and "-F" in argv):
        return _say("qstat: invalid option -- 'F'\nusage: qstat ...", 2)
    if "-x" in argv and (root / "no_history").exists():
        return _say("qstat: PBS is not configured to maintain job history", 34)
    numbers = [word for word in argv if word[:1].isdigit()]
    jobs, code = [], 0
    for number in numbers or [job["id"] for job in _all_jobs(root)]:
        job = _known(root, number)
        if job is None:
            code = _say(f"qstat: Unknown Job Id {number}", 153)
        elif job["job_state"] == "F" and "-x" not in argv:
            code = _say(f"qstat: {number} Job has finished, use -x or -H to obtain historical job information", 35)
        else:
            jobs.append(job)
    if "-F" in argv:
        listed = {job["id"]: _attributes(job) for job in jobs}
        head = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
        _answer(json.dumps({**head, **({"Jobs": listed} if listed else {})}, indent=4))
    else:
        _answer("\n".join(_as_text(job, torque) for job in jobs))
    return code


def _attributes(job: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in job.items() if name not in ("id", "argv", "output")}


def _as_text(job: dict[str, Any], torque: bool) -> str:
    lines = [f"Job Id: {job['id']}"]
    for name, value in _attributes(job).items():
        nested = isinstance(value, dict)
        pairs = [(f"{name}.{key}", inner) for key, inner in value.items()] if nested else [(name, value)]
        for each, text in pairs:
            line = f"    {each.lower() if torque and each == 'Exit_status' else each} = {text}"
            lines += [line[:79], *("\t" + line[start : start + 72] for start in range(79, len(line), 72))]
    return "\n".join(lines) + "\n"


def _queues(root: Path) -> str:
    states = [job["job_state"] for job in _all_jobs(root)]
    names = {"Transit": "T", "Queued": "Q", "Held": "H", "Waiting": "W", "Running": "R", "Exiting": "E", "Begun": "B"}
    counts = " ".join(f"{name}:{states.count(letter)}" for name, letter in names.items())
    return (
        f"Queue: workq\n    queue_type = Execution\n    total_jobs = {len(states)}\n    state_count = {counts} \n"
        "    enabled = True\n    started = True\n"
    )


def _qselect(root: Path, argv: Sequence[str]) -> int:
    if "-x" in argv and (root / "no_history").exists():
        return _say("qselect: PBS is not configured to maintain job history", 34)
    name = argv[argv.index("-N") + 1] if "-N" in argv else None
    for job in _all_jobs(root):
        if name in (None, job["Job_Name"]) and _known(root, job["id"]) and ("-x" in argv or job["job_state"] != "F"):
            _answer(job["id"])
    return 0


def _qdel(root: Path, argv: Sequence[str]) -> int:
    code = 0
    for number in argv:
        job = _known(root, number)
        if job is None:
            code = _say(f"qdel: Unknown Job Id {number}", 153)
        elif job["job_state"] in _OVER:
            code = _say(f"qdel: Job has finished {number}", 35)
        else:
            (_place(root, number) / "delete").touch()
    return code


# --- the process that runs one job -----------------------------------------------------------------------------------


class Mom:
    """Starts the script of a job, watches its limits, and tells its end."""

    def __init__(self, root: Path, number: str) -> None:
        self.root, self.place = root, _place(root, number)
        self.job = _read(self.place)
        self.words = ""

    def run(self) -> None:
        while (why := self._waiting()) is not None:
            if (self.place / "delete").exists():
                self._end(91, None, "")
                return
            state, comment = why
            if (self.job["job_state"], self.job.get("comment")) != why:
                self._note(job_state=state, comment=comment)
            _PAUSE.wait(_TICK)
        self._note(job_state="R", substate=42, stime=_now(), comment=f"Job run at {_now()} on ({SERVER}:ncpus=1)")
        started = time.monotonic()
        with (self.place / "spool").open("ab") as spool:
            process = subprocess.Popen(
                ["/bin/sh", str(self.place / "script")], stdin=subprocess.DEVNULL, stdout=spool, stderr=spool, cwd="/",
                env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PBS_JOBID": self.job["id"],
                     "PBS_JOBNAME": self.job["Job_Name"], "PBS_ENVIRONMENT": "PBS_BATCH",
                     JOB_MARK: str(self.place), SERVER_MARK: str(self.root)},
                start_new_session=True,
            )  # fmt: skip
        substate, status = self._watch(process, started)
        self._kill(signal.SIGKILL)
        self.job["resources_used"] = {"cput": "00:00:00", "mem": "0kb", "walltime": _clock(time.monotonic() - started)}
        self._end(substate, status, self.words)

    def _waiting(self) -> tuple[str, str] | None:
        if (self.root / "hold").exists():
            return "H", "Job held by somebody"
        if (self.root / "never").exists():
            return "Q", "Can Never Run: Insufficient amount of resource: ncpus (R: 99 A: 8 T: 8)"
        return None

    def _watch(self, process: subprocess.Popen[bytes], started: float) -> tuple[int, int]:
        limit, megabytes = _limits(self.job["Resource_List"])
        weighed, memory = 0.0, 0
        torque = (self.root / "torque").exists()
        while process.poll() is None:
            _PAUSE.wait(_TICK)
            used = time.monotonic() - started
            if used >= weighed + _WEIGHING:
                weighed, memory = used, self._memory()
            if (self.place / "delete").exists():
                self._stop(process)
                return 91, 256 + signal.SIGTERM
            if used > limit:
                self.words = " and exceeded resource walltime"
                self._tell(f"=>> PBS: job killed: walltime {used:.0f} exceeded limit {limit:.0f}")
                self._stop(process)
                return 93, -11 if torque else -29
            if memory > megabytes << 20:
                self.words = " and exceeded resource mem"
                self._tell(f"=>> PBS: job killed: mem {memory >> 10}kb exceeded limit {megabytes << 10}kb")
                self._stop(process)
                return 93, -10 if torque else -27
        code = process.returncode
        return (92 if code == 0 else 93), (256 - code if code < 0 else code)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        self._kill(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_KILL_DELAY)
        self._kill(signal.SIGKILL)
        process.wait()

    def _tell(self, text: str) -> None:
        with (self.place / "spool").open("a") as spool:
            spool.write(text + "\n")

    def _family(self) -> list[int]:
        """Every process of the job: the environment goes along wherever they hide."""
        mark = f"{JOB_MARK}={self.place}".encode()
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if mark in environ.read_bytes().split(b"\0"):
                    found.append(int(environ.parts[2]))
        return found

    def _memory(self) -> int:
        pages = 0
        for pid in self._family():
            with suppress(OSError, IndexError):
                pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def _kill(self, number: signal.Signals) -> None:
        for pid in self._family():
            with suppress(OSError):
                os.kill(pid, number)

    def _end(self, substate: int, status: int | None, words: str) -> None:
        torque = (self.root / "torque").exists()
        spool = self.place / "spool"
        if spool.exists() and self.job["output"] not in ("", "/dev/null"):
            with suppress(OSError):
                Path(self.job["output"]).write_bytes(spool.read_bytes())
        ended: dict[str, Any] = {} if status is None else {"Exit_status": status}
        if torque:
            self.job.pop("substate", None)
        else:
            ended["substate"] = substate
        comment = (self.job.get("comment") or "Job") + (words or " and finished")
        self._note(job_state="C" if torque else "F", comment=comment, **ended)

    def _note(self, **more: Any) -> None:
        self.job |= {**more, "mtime": _now()}
        _write(self.place, self.job)


def _limits(resources: dict[str, str]) -> tuple[float, int]:
    """Seconds and megabytes."""
    hours, minutes, seconds = (int(part) for part in resources["walltime"].split(":"))
    memory = re.search(r"mem=(\d+)mb", ",".join(f"{name}={value}" for name, value in resources.items()))
    return (hours * 60 + minutes) * 60 + seconds, int(memory[1]) if memory else 1 << 20


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def main(root: Path, program: str, argv: Sequence[str]) -> int:
    if program == "mom":
        Mom(root, argv[0]).run()
        return 0
    with (root / "calls").open("a") as calls:
        calls.write(program + "\n")
    if (root / "down").exists() and "--version" not in argv:
        return _say(f"Connection refused\n{program}: cannot connect to server {SERVER} (errno=111)", 111)
    if program == "qstat" and (root / "silent").exists():
        return 0
    if program == "qstat" and (root / "garbage").exists():
        return _answer("<html>out to lunch</html>")
    return {"qsub": _qsub, "qstat": _qstat, "qselect": _qselect, "qdel": _qdel}[program](root, argv)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
