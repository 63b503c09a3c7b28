"""The TensorRT runtime's host code over a FAKE CUDA driver and a FAKE TensorRT: no GPU, no driver, no TensorRT."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import fake_packages
from gpu_assertions import assert_answers, assert_nothing_left
from host_kernel import host_images
from tiny_plan import CANVAS, expected, part_images, tiny_plan

from engines.errors import EngineFault, EngineTimeout, EngineUnavailable
from engines.plans import Plan
from engines.runtimes import infer
from engines.runtimes.gpu.slots import GpuSlot
from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

PLAIN = GpuOptions(graphs=False)
ONE_PART = [
    "memcpy_htod_async",
    "execute_async_v3",
    "patch_gmsd_distances",
    "patch_gmsd_scores",
    "memcpy_dtoh_async",
]
Make = Callable[..., TensorRtRuntime]


@pytest.mark.parametrize("graphs", [True, False])
def test_reproduces_the_reference(make: Make, graphs: bool) -> None:
    """Plan and kernels together give each part the reference's scores and map, recorded as a graph or not."""
    runtime = make(options=GpuOptions(graphs=graphs, reconstruction=True))
    assert runtime.recorded is graphs
    for image in part_images(4):
        outputs, true = infer(runtime, image), expected(image)
        assert_answers(outputs, true)
        assert outputs.reconstruction is not None
        np.testing.assert_allclose(outputs.reconstruction, true.reconstruction, rtol=1e-5)


def test_a_plan_that_scores_alone(make: Make) -> None:
    """Without a decoder the plan's own scores come out, no kernel is loaded, and the map with them."""
    runtime = make(tiny_plan(cut=False))
    for image in part_images(2):
        outputs = infer(runtime, image)
        assert_answers(outputs, expected(image, cut=False))
        assert outputs.reconstruction is None


def test_one_part_is_five_things_on_one_stream(make: Make, fake: SimpleNamespace) -> None:
    """Copy in, plan, two kernels, one copy out, in this order; nothing is allocated and nothing else waited for."""
    runtime = make(options=PLAIN)
    fake.cuda.calls.clear()
    fake.cuda.done.clear()
    infer(runtime, part_images(1)[0])
    assert fake.cuda.done == [*ONE_PART, "mark"]
    context = ["Context.push", "Context.pop"]
    assert fake.cuda.calls == [
        context[0],
        *ONE_PART,
        "Event.record",
        *context[::-1],
        "Event.query",
        "Event.query",
        context[1],
    ]


def test_a_recorded_part_is_one_call(make: Make, fake: SimpleNamespace) -> None:
    """The same five things happen, the host asks for them once."""
    runtime = make()
    fake.cuda.calls.clear()
    fake.cuda.done.clear()
    infer(runtime, part_images(1)[0])
    assert fake.cuda.done == [*ONE_PART, "mark"]
    assert [call for call in fake.cuda.calls if call.startswith(("cu", "mem", "patch"))] == ["cuGraphLaunch"]


def test_without_cuda_graphs_it_runs_call_by_call(make: Make, fake: SimpleNamespace) -> None:
    """A driver that cannot record changes nothing but the number of calls."""
    fake.cuda.can_record = False
    runtime = make()
    assert not runtime.recorded
    image = part_images(1)[0]
    assert_answers(infer(runtime, image), expected(image))


def test_only_scores_and_map_travel(make: Make, fake: SimpleNamespace) -> None:
    """The reconstruction stays on the device unless it is asked for."""
    copied = [0, 0]
    for index, wanted in enumerate((False, True)):
        runtime = make(options=GpuOptions(graphs=False, reconstruction=wanted))
        work = runtime.gpu_slots[0]._work
        assert work is not None
        copied[index] = work.buffers.host_answer.nbytes
        assert (infer(runtime, part_images(1)[0]).reconstruction is not None) is wanted
    pixels = CANVAS.height_px * CANVAS.width_px
    assert copied[0] < 4 * pixels < copied[1] < 8 * pixels


def test_without_waiting_the_bytes_are_stale(make: Make, fake: SimpleNamespace) -> None:
    """The fake is lazy: between start and the event's end the answer is the part before's, as on a GPU."""
    runtime = make()
    first, second = part_images(2)
    slot = runtime.gpu_slots[0]
    before = infer(runtime, first).part_score
    np.copyto(slot.input, second)
    slot.start()
    assert slot.answers()[0].part_score == before
    assert slot.wait(1.0).part_score == pytest.approx(expected(second).part_score, rel=1e-4)


def test_a_slot_that_does_not_look_is_found_out(
    make: Make, fake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted fault: without the look at the event, the test of the numbers would fail."""
    runtime = make()
    first, second = part_images(2)
    infer(runtime, first)
    monkeypatch.setattr(GpuSlot, "finished", lambda self, timeout_s: True)
    assert infer(runtime, second).part_score != pytest.approx(expected(second).part_score, rel=1e-4)
    for stream in fake.cuda.streams.values():
        stream.queue.clear()


def test_two_parts_in_flight(make: Make) -> None:
    """Two slots started one after the other each give their own part's answer, in either order of waiting."""
    runtime = make()
    images = part_images(2)
    for order in ((0, 1), (1, 0)):
        for slot, image in zip(runtime.slots, images, strict=True):
            np.copyto(slot.input, image)
            slot.start()
        for index in order:
            assert_answers(runtime.slots[index].wait(1.0), expected(images[index]))


def test_slots_share_no_memory(make: Make, fake: SimpleNamespace) -> None:
    """Each slot has inputs, answers, scratch and addresses of its own; tables are there once."""
    runtime = make()
    one, two = (slot._work for slot in runtime.gpu_slots)
    assert one is not None
    assert two is not None
    assert not np.shares_memory(one.buffers.host_input, two.buffers.host_input)
    assert not np.shares_memory(one.buffers.host_answer, two.buffers.host_answer)
    assert one.buffers.answer_address != two.buffers.answer_address
    arguments = [
        dict(zip(w.launches[0].launch.kernel.arguments, w.launches[0].addresses, strict=True)) for w in (one, two)
    ]
    assert arguments[0]["tables"] == arguments[1]["tables"]
    assert arguments[0]["distances"] != arguments[1]["distances"]
    assert arguments[0]["part"] == one.buffers.input_address


def test_buffers_stay_where_they_are(make: Make, fake: SimpleNamespace) -> None:
    """A hundred parts allocate nothing, and the answers are views of the same memory."""
    runtime = make()
    image = part_images(1)[0]
    first = infer(runtime, image)
    before = list(fake.cuda.device)
    for _ in range(100):
        again = infer(runtime, image)
    assert again.anomaly_map is first.anomaly_map
    assert list(fake.cuda.device) == before


def test_wait_before_start_and_twice(make: Make) -> None:
    """A slot that was not started, or whose answer was taken, has none to give."""
    runtime = make()
    with pytest.raises(EngineFault, match="not started"):
        runtime.slots[0].wait(1.0)
    infer(runtime, part_images(1)[0])
    with pytest.raises(EngineFault, match="not started"):
        runtime.slots[0].wait(1.0)


def test_start_while_the_one_before_runs(make: Make, fake: SimpleNamespace) -> None:
    """A second start before the first has ended is a fault, and the first one's answer is still right."""
    runtime = make()
    image = part_images(1)[0]
    slot = runtime.slots[0]
    np.copyto(slot.input, image)
    fake.cuda.looks = 2
    slot.start()
    with pytest.raises(EngineFault, match="the one before still runs"):
        slot.start()
    assert_answers(slot.wait(1.0), expected(image))


def test_a_late_inference_is_a_timeout_and_the_slot_recovers(make: Make, fake: SimpleNamespace) -> None:
    """An event that does not come is an EngineTimeout; the slot refuses parts until it has come, then takes them."""
    runtime = make()
    image, other = part_images(2)
    slot = runtime.slots[0]
    fake.cuda.hangs = True
    np.copyto(slot.input, image)
    slot.start()
    with pytest.raises(EngineTimeout, match="did not end within 2 ms"):
        slot.wait(0.002)
    with pytest.raises(EngineFault, match="the one before still runs"):
        slot.start()
    fake.cuda.hangs = False
    fake.cuda.looks = 0
    assert_answers(infer(runtime, other), expected(other))


def test_a_hung_engine_is_closed(make: Make, fake: SimpleNamespace) -> None:
    """Closing waits for what was queued; the slot then says that the engine was closed, whatever it is asked for."""
    runtime = make()
    slot = runtime.slots[0]
    slot.start()
    runtime.close()
    runtime.close()
    assert not fake.cuda.leaks()
    with pytest.raises(EngineFault, match="closed"):
        slot.start()
    with pytest.raises(EngineFault, match="closed"):
        slot.wait(0.1)
    with pytest.raises(EngineFault, match="closed"):
        slot.input.sum()


def test_made_used_and_closed_in_three_threads(fake: SimpleNamespace, kernels: bytes) -> None:
    """As in the daemon: the context is current only in the thread that is in a call, whichever it is."""
    kept: list[Any] = []
    image = part_images(1)[0]

    def make() -> None:
        kept.append(TensorRtRuntime(tiny_plan(), fake.packages, images=host_images(kernels)))

    def use() -> None:
        outputs = infer(kept[0], image)
        kept.append(
            replace(outputs, **{name: getattr(outputs, name).copy() for name in ("region_scores", "anomaly_map")})
        )

    def close() -> None:
        kept[0].close()

    for step in (make, use, close):
        thread = Thread(target=step)
        thread.start()
        thread.join(30.0)
    assert_answers(kept[1], expected(image))
    assert not any(fake.cuda._stacks.values())
    assert_nothing_left(fake)


def test_each_call_may_fail_while_a_part_is_inferred(fake: SimpleNamespace, kernels: bytes) -> None:
    """Whichever call fails, the part is an EngineFault, never an answer, and closing still frees everything."""
    for graphs in (False, True):
        failed = 0
        while True:
            fake = fake_packages()
            runtime = TensorRtRuntime(
                tiny_plan(), fake.packages, GpuOptions(graphs=graphs), images=host_images(kernels)
            )
            fake.cuda.fail_call = len(fake.cuda.calls) + failed
            fault = fault_of(runtime)
            fake.cuda.fail_call = None
            runtime.close()
            assert_nothing_left(fake)
            if fault is None:
                break
            assert re.fullmatch(r"[^\n]*(injected|LAUNCH_FAILED)[^\n]*", fault)
            failed += 1
        assert failed == (8 if graphs else 12)


def fault_of(runtime: TensorRtRuntime) -> str | None:
    """What one part's fault says, None where it was answered."""
    try:
        infer(runtime, part_images(1)[0])
    except EngineFault as fault:
        return str(fault)
    return None


def test_a_lost_device_fails_every_part_from_then_on(make: Make, fake: SimpleNamespace) -> None:
    """After a failure in the middle of a part's work, no part is answered any more, and the engine can be closed."""
    runtime = make(options=PLAIN)
    fake.cuda.lost = True
    for _ in range(3):
        with pytest.raises(EngineFault, match="injected"):
            infer(runtime, part_images(1)[0])


def test_enqueue_failing_says_what_tensorrt_says(make: Make, fake: SimpleNamespace) -> None:
    """TensorRT answers False: the part's fault carries the first line of its log; the next part is judged again."""
    runtime = make(options=PLAIN)
    fake.tensorrt.fail.add("execute_async_v3")
    with pytest.raises(EngineFault, match="could not be started: injected: TensorRT says no"):
        infer(runtime, part_images(1)[0])
    fake.tensorrt.fail.clear()
    image = part_images(1)[0]
    assert_answers(infer(runtime, image), expected(image))


@pytest.mark.parametrize("name", ["deserialize_cuda_engine", "create_execution_context", "set_tensor_address"])
def test_tensorrt_refusing_at_load(make: Make, fake: SimpleNamespace, name: str) -> None:
    """A plan that TensorRT refuses is EngineUnavailable with TensorRT's own reason, and leaves nothing behind."""
    fake.tensorrt.fail.add(name)
    with pytest.raises(EngineUnavailable, match="TensorRT says no") as caught:
        make()
    assert "\n" not in str(caught.value)
    del caught
    assert_nothing_left(fake)


def test_tensorrt_that_cannot_start(make: Make, fake: SimpleNamespace) -> None:
    """What pybind11 says where TensorRT's factory gives nothing becomes one line."""
    fake.tensorrt.cannot_start = True
    with pytest.raises(EngineUnavailable, match="cannot start"):
        make()


def test_each_call_may_fail_while_loading(fake: SimpleNamespace, kernels: bytes) -> None:
    """Whichever call fails while the engine is made: EngineUnavailable in one line, and everything is given back.

    A graph that cannot be recorded is no failure: the engine then runs call by call.
    """
    count = calls_of_loading(fake, kernels)
    for failed in range(count):
        fake = fake_packages()
        fake.cuda.fail_call = failed
        refused = refusal_of(fake, kernels)
        if refused is None:
            assert fake.cuda.calls[failed].startswith(("cu", "memcpy_htod_async", "memcpy_dtoh", "patch", "execute"))
        else:
            assert re.fullmatch(r"[^\n]*(injected|LAUNCH_FAILED)[^\n]*", refused)
        assert_nothing_left(fake)


def refusal_of(fake: SimpleNamespace, kernels: bytes) -> str | None:
    """Why no engine can be made; None where one can, which then answers rightly, and is closed."""
    try:
        runtime = TensorRtRuntime(tiny_plan(), fake.packages, images=host_images(kernels))
    except EngineUnavailable as error:
        return str(error)
    fake.cuda.fail_call = None
    image = part_images(1)[0]
    assert_answers(infer(runtime, image), expected(image))
    runtime.close()
    return None


def calls_of_loading(fake: SimpleNamespace, kernels: bytes) -> int:
    """How many calls of the driver's an undisturbed load takes."""
    runtime = TensorRtRuntime(tiny_plan(), fake.packages, images=host_images(kernels))
    count = len(fake.cuda.calls)
    runtime.close()
    return count


def test_out_of_memory_at_each_allocation(fake: SimpleNamespace, kernels: bytes) -> None:
    """A card with too little memory, whichever allocation meets its end: one line, nothing left behind."""
    runtime = TensorRtRuntime(tiny_plan(), fake.packages, images=host_images(kernels))
    sizes = [memory.size for memory in fake.cuda.device.values()]
    runtime.close()
    assert len(sizes) >= 8
    for allowed in range(len(sizes)):
        fake = fake_packages()
        fake.cuda.memory_bytes = sum(sizes[: allowed + 1]) - 1
        with pytest.raises(EngineUnavailable, match="out of memory") as caught:
            TensorRtRuntime(tiny_plan(), fake.packages, images=host_images(kernels))
        del caught
        assert_nothing_left(fake)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda plan: replace(plan, stage=None), "unexpected outputs"),
        (lambda plan: replace(tiny_plan(cut=False), stage=plan.stage), "unexpected outputs"),
    ],
)
def test_a_plan_with_other_ports(make: Make, change: Callable[[Plan], Plan], complaint: str) -> None:
    """A plan that is not what its stage says is refused when it is loaded, not when the first part comes."""
    with pytest.raises(EngineUnavailable, match=complaint):
        make(change(tiny_plan()))


def test_says_what_is_running(make: Make) -> None:
    """The info names package, version, precision and card."""
    info = make().info
    assert (info.runtime, info.precision) == ("tensorrt", "f32")
    assert info.version.startswith("11")
    assert info.device.startswith("fake GPU")
