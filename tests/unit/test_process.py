"""Process: what each wish does to a process of its own, and what is said where the system refuses it."""

from __future__ import annotations

import json
import os
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
UNPRIVILEGED = ("setpriv", "--bounding-set=-sys_nice,-sys_resource,-ipc_lock", "--")
LIMITED = ("prlimit", "--rtprio=0", "--memlock=8388608", "--")
CORES = sorted(os.sched_getaffinity(0))


def outcome(*prefix: str, **settings: Any) -> dict[str, Any]:
    """What became of a process with these settings."""
    command = [*prefix, sys.executable, "-c", PROGRAM, json.dumps({"lock_memory": False, **settings})]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def may_prefer() -> bool:
    """Whether this user may use real-time priorities."""
    program = "import os; os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(5))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0


def test_the_default_is_quiet_and_asks_for_little() -> None:
    """Garbage is frozen and threads switch after half a millisecond; priority and cores stay as they were."""
    made = outcome()
    assert (made["granted"], made["refused"]) == ({}, [])
    assert made["switch_s"] == pytest.approx(0.0005)
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
