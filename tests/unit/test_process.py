"""Process: what each wish does to a process of its own, and what is said where the system refuses it."""

from __future__ import annotations

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
from typing import Any

import pytest
from tiny_station import environment

PROGRAM = """
import gc, json, os, sys, threading
from inspectd.process import Process, on_engine_cores
from inspectd.sections import ProcessSettings

settings = ProcessSettings.model_validate_json(sys.argv[1])
with on_engine_cores(settings):
    loading = sorted(os.sched_getaffinity(0))
process = Process(settings)
process.before_stages()
done = threading.Event()
threads = [threading.Thread(target=done.wait) for _ in range(3)]
for thread in threads:
    thread.start()
main, engine, acquire, gate = 0, *(thread.native_id for thread in threads)
process.stages_run(engine_thread=engine, timed_threads=[acquire, gate])
locked = next(line for line in open("/proc/self/status") if line.startswith("VmLck"))
print(json.dumps({
    "granted": process.granted(),
    "refused": process.refused,
    "switch_s": sys.getswitchinterval(),
    "frozen": gc.get_freeze_count(),
    "policies": [os.sched_getscheduler(thread) & ~os.SCHED_RESET_ON_FORK for thread in (main, engine, acquire, gate)],
    "priorities": [os.sched_getparam(thread).sched_priority for thread in (main, engine, acquire, gate)],
    "loading": loading,
    "cores": [sorted(os.sched_getaffinity(thread)) for thread in (main, engine, acquire, gate)],
    "locked_kib": int(locked.split()[1]),
}))
done.set()
"""
LOADING = """
import json, os, sys, threading
from inspectd.process import behind_the_rest
from inspectd.sections import ProcessSettings

def priority(thread):
    return os.getpriority(os.PRIO_PROCESS, thread)

def engine():
    started.set()
    done.wait()

def load():
    with behind_the_rest(ProcessSettings.model_validate_json(sys.argv[1])):
        worker.start()
        started.wait()
        seen["meanwhile"] = [priority(thread.native_id) for thread in (threading.main_thread(), loader, worker)]
    seen["afterwards"] = [priority(thread.native_id) for thread in (threading.main_thread(), loader, worker)]

started, done, seen = threading.Event(), threading.Event(), {}
worker, loader = threading.Thread(target=engine), threading.Thread(target=load)
loader.start()
loader.join()
done.set()
print(json.dumps(seen))
"""
FREEING = """
import ctypes, json, sys
from inspectd.process import Process
from inspectd.sections import ProcessSettings

def resident_mib():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024

def locked_kib():
    (line,) = [line for line in open("/proc/self/status") if line.startswith("VmLck")]
    return int(line.split()[1])

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes, library.free.argtypes = (
    ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p])
process = Process(ProcessSettings.model_validate_json(sys.argv[1]))
process.stages_run(engine_thread=0, timed_threads=[])
seen = [resident_mib()]
pieces = [library.malloc(100_000) for _ in range(1000)]
for piece in pieces:
    ctypes.memset(piece, 1, 100_000)
for piece in pieces[:-1]:  # the last one keeps the heap from shrinking by itself
    library.free(piece)
for parts_pending, engines_freed in ((0, 0), (1, 1), (0, 1)):
    process.idle(parts_pending, engines_freed)
    seen.append(resident_mib())
print(json.dumps({"resident_mib": seen, "locked_kib": locked_kib(), "refused": process.refused}))
"""
UNPRIVILEGED = ("setpriv", "--bounding-set=-sys_nice,-sys_resource,-ipc_lock", "--")
LIMITED = ("prlimit", "--rtprio=0", "--memlock=8388608", "--")
CORES = sorted(os.sched_getaffinity(0))


def outcome(*prefix: str, program: str = PROGRAM, **settings: Any) -> dict[str, Any]:
    """What became of a process with these settings."""
    command = [*prefix, sys.executable, "-c", program, json.dumps({"lock_memory": False, **settings})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def may_prefer() -> bool:
    """Whether this user may use real-time priorities."""
    program = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_the_default_is_quiet_and_asks_for_little() -> None:
    """Garbage is frozen and threads switch after a tenth of a millisecond; priority and cores stay as they were."""
    made = outcome()
    assert (made["granted"], made["refused"]) == ({}, [])
    assert made["switch_s"] == pytest.approx(0.0001)
    assert made["frozen"] > 1000
    assert made["priorities"] == [0, 0, 0, 0]
    assert made["cores"] == [CORES] * 4


def test_garbage_collection_as_python_does_it() -> None:
    """default leaves the collector alone."""
    made = outcome(garbage_collection="default", thread_switch_ms=5)
    assert made["frozen"] == 0
    assert made["switch_s"] == pytest.approx(0.005)


@pytest.mark.skipif(len(CORES) < 2, reason="one core only")
def test_the_engine_has_cores_of_its_own() -> None:
    """The engine is loaded on its cores and waited for there; every other thread keeps to the others."""
    mine, others = [CORES[-1]], CORES[:-1]
    made = outcome(engine_cores=mine, other_cores=others)
    assert made["loading"] == mine
    assert made["cores"] == [others, mine, others, others]
    assert made["granted"] == {"engine_cores": True, "other_cores": True}


def test_cores_that_do_not_exist_are_one_line_each() -> None:
    """The daemon goes on with the cores that it has."""
    made = outcome(engine_cores=[1023])
    assert made["cores"] == [CORES] * 4
    assert made["granted"] == {"engine_cores": False}
    (line,) = made["refused"]
    assert line.startswith("process.engine_cores is not in force: ")
    assert "[1023]" in line


def test_the_timed_threads_come_first() -> None:
    """Acquire and gate get SCHED_FIFO; the engine and the main thread do not, nor does what they start."""
    if not may_prefer():
        pytest.skip("real-time priorities are not permitted here (RLIMIT_RTPRIO)")
    made = outcome(realtime_priority=7)
    assert made["priorities"] == [0, 0, 7, 7]
    assert made["policies"] == [os.SCHED_OTHER, os.SCHED_OTHER, os.SCHED_FIFO, os.SCHED_FIFO]
    assert made["granted"] == {"realtime_priority": True}


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "prlimit"))),
    reason="needs root, setpriv and prlimit to take the permission away",
)
def test_without_permission_each_wish_is_one_line_and_the_process_goes_on() -> None:
    """Priority and memory refused: what to do stands in the line, and nothing is half done."""
    made = outcome(*LIMITED, *UNPRIVILEGED, realtime_priority=7, lock_memory=True)
    assert made["granted"] == {"lock_memory": False, "realtime_priority": False}
    assert made["priorities"] == [0, 0, 0, 0]
    assert made["locked_kib"] == 0
    assert [line.partition(" is")[0] for line in made["refused"]] == [
        "process.realtime_priority",
        "process.lock_memory",
    ]
    assert "realtime.conf.example" in made["refused"][0]
    assert "LimitMEMLOCK=infinity" in made["refused"][1]


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY, reason="RLIMIT_MEMLOCK is limited here"
)
def test_memory_in_use_is_locked() -> None:
    """Where there is no limit, memory is locked."""
    made = outcome(lock_memory=True)
    assert made["granted"] == {"lock_memory": True}
    assert made["locked_kib"] > 0


def test_an_engine_is_loaded_behind_the_rest_and_judges_like_the_rest() -> None:
    """A loader's thread, and those that it starts, are lower while it loads; none stays so."""
    program = "import os; os.setpriority(os.PRIO_PROCESS, 0, 1); os.setpriority(os.PRIO_PROCESS, 0, 0)"
    if subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode != 0:
        pytest.skip("priorities may not rise again here (RLIMIT_NICE)")
    own = os.getpriority(os.PRIO_PROCESS, 0)
    lower = min(own + 10, 19)
    assert outcome(program=LOADING) == {"meanwhile": [own, lower, lower], "afterwards": [own] * 3}


@pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "prlimit"))),
    reason="needs root, setpriv and prlimit to take the permission away",
)
def test_no_priority_is_lowered_that_could_not_rise_again() -> None:
    """Else the new engine would judge behind the rest for good."""
    made = outcome("prlimit", "--nice=0", "--", *UNPRIVILEGED, program=LOADING)
    assert made == dict.fromkeys(("meanwhile", "afterwards"), [os.getpriority(os.PRIO_PROCESS, 0)] * 3)


def test_an_engine_may_be_loaded_at_the_priority_of_the_rest() -> None:
    """loading_niceness 0 leaves every priority alone."""
    made = outcome(program=LOADING, loading_niceness=0)
    assert made == dict.fromkeys(("meanwhile", "afterwards"), [os.getpriority(os.PRIO_PROCESS, 0)] * 3)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has malloc_trim")
@pytest.mark.parametrize("locked", [False, True])
def test_the_memory_of_a_freed_engine_is_given_back_while_no_part_waits(locked: bool) -> None:
    """Also where memory is locked, as it is again afterwards; not before an engine was freed, nor while parts wait."""
    if locked and resource.getrlimit(resource.RLIMIT_MEMLOCK)[1] != resource.RLIM_INFINITY:
        pytest.skip("RLIMIT_MEMLOCK is limited here")
    made = outcome(program=FREEING, lock_memory=locked)
    before, nothing_freed, parts_wait, given_back = made["resident_mib"]
    assert min(nothing_freed, parts_wait) > before + 80
    assert given_back < before + 20
    assert made["refused"] == []
    assert (made["locked_kib"] > 0) == locked


def test_a_thread_that_waits_is_woken_when_it_is_due() -> None:
    """Linux's slack is gone for the thread that asks, and for it alone."""
    program = """
import json, threading
from pathlib import Path
from inspectd.process import wake_in_time

def slack_ns():
    return int(Path(f"/proc/{threading.get_native_id()}/timerslack_ns").read_text())

def ask():
    wake_in_time()
    seen.append(slack_ns())

seen = [slack_ns()]
thread = threading.Thread(target=ask)
thread.start()
thread.join()
print(json.dumps([*seen, slack_ns()]))
"""
    before, asked, after = outcome(program=program)
    assert (before, asked, after) == (before, 1, before)
    assert before > 1
