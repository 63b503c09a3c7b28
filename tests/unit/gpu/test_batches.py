"""Batches of parts over the FAKE CUDA driver: full ones, lone parts, late ones. Plans of four parts."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
from gpu_assertions import assert_answers
from tiny_plan import expected, part_images, tiny_plan

from engines.errors import EngineFault, EngineTimeout
from engines.runtimes import Outputs, Slot
from engines.runtimes.tensorrt import GpuOptions, TensorRtRuntime

Make = Callable[..., TensorRtRuntime]
BATCH = 4
PATIENT = GpuOptions(batch_wait_ms=60_000.0)
"""A part that is alone would wait for company for a minute."""
LONG_S = 30.0


@pytest.fixture
def batched(make: Make, fake: SimpleNamespace) -> Callable[[GpuOptions], TensorRtRuntime]:
    """Makes a runtime for four parts at once; inferences are counted from there."""

    def new(options: GpuOptions) -> TensorRtRuntime:
        runtime = make(tiny_plan(batch=BATCH), options)
        fake.cuda.inferences = 0
        return runtime

    return new


def begin(slot: Slot, image: np.ndarray) -> None:
    """Put a part into its slot and start it."""
    np.copyto(slot.input, image)
    slot.start()


def test_a_full_batch_is_one_inference(batched: Callable[..., TensorRtRuntime], fake: SimpleNamespace) -> None:
    """Four parts, one inference, sent with the fourth and not later; each gets its own answer, in any order."""
    runtime = batched(PATIENT)
    assert len(runtime.slots) == 2 * BATCH
    images = part_images(BATCH)
    for slot, image in zip(runtime.slots, images, strict=False):
        begin(slot, image)
    for index in (2, 0, 3, 1):
        assert_answers(runtime.slots[index].wait(LONG_S), expected(images[index]))
    assert fake.cuda.inferences == 1


def test_a_lone_part_waits_no_longer_than_stated(
    batched: Callable[..., TensorRtRuntime], fake: SimpleNamespace
) -> None:
    """Without company the part is sent when its time is over; at 0 ms at once."""
    image = part_images(1)[0]
    for wait_ms in (0.0, 20.0):
        runtime = batched(GpuOptions(batch_wait_ms=wait_ms))
        begin(runtime.slots[1], image)
        assert_answers(runtime.slots[1].wait(LONG_S), expected(image))
        assert fake.cuda.inferences == 1


def test_company_comes_from_other_threads(batched: Callable[..., TensorRtRuntime], fake: SimpleNamespace) -> None:
    """Four cameras, each in a thread of its own: one inference, started by whoever is the last."""
    runtime = batched(PATIENT)
    images = part_images(BATCH)
    answers: dict[int, Outputs] = {}

    def camera(place: int) -> None:
        begin(runtime.slots[place], images[place])
        answers[place] = runtime.slots[place].wait(LONG_S)

    threads = [Thread(target=camera, args=(place,)) for place in range(BATCH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    for place, image in enumerate(images):
        assert_answers(answers[place], expected(image))
    assert fake.cuda.inferences == 1


def test_many_rounds_in_threads(batched: Callable[..., TensorRtRuntime]) -> None:
    """Cameras that come and go at their own pace never get each other's answers."""
    runtime = batched(GpuOptions(batch_wait_ms=1.0))
    images = part_images(4 * BATCH)
    wrong: list[str] = []

    def camera(place: int) -> None:
        for image in images[place::BATCH]:
            begin(runtime.slots[place], image)
            got, true = runtime.slots[place].wait(LONG_S).part_score, expected(image).part_score
            if abs(got - true) > 1e-4 * true:
                wrong.append(f"place {place}: {got}, not {true}")

    threads = [Thread(target=camera, args=(place,)) for place in range(BATCH)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert wrong == []


def test_answers_outlive_the_next_batch(batched: Callable[..., TensorRtRuntime]) -> None:
    """A part's answer lies in memory of its own: another part's batch does not change it."""
    runtime = batched(GpuOptions())
    first, second = part_images(2)
    begin(runtime.slots[0], first)
    kept = runtime.slots[0].wait(LONG_S)
    begin(runtime.slots[1], second)
    assert_answers(runtime.slots[1].wait(LONG_S), expected(second))
    assert_answers(kept, expected(first))


def test_a_part_that_gives_up_takes_nobody_along(
    batched: Callable[..., TensorRtRuntime], fake: SimpleNamespace
) -> None:
    """One part's time-out, on the GPU or before, is its own; the others are answered."""
    runtime = batched(GpuOptions())
    images = part_images(2)
    fake.cuda.hangs = True
    begin(runtime.slots[0], images[0])
    begin(runtime.slots[1], images[1])
    with pytest.raises(EngineTimeout):
        runtime.slots[0].wait(0.002)
    fake.cuda.hangs = False
    assert_answers(runtime.slots[1].wait(LONG_S), expected(images[1]))


def test_a_part_that_waits_for_company_in_vain_gives_up(batched: Callable[..., TensorRtRuntime]) -> None:
    """A time-out shorter than the wait for company withdraws the part; its slot takes the next one."""
    runtime = batched(PATIENT)
    images = part_images(BATCH)
    begin(runtime.slots[0], images[1])
    with pytest.raises(EngineTimeout):
        runtime.slots[0].wait(0.002)
    for slot, image in zip(runtime.slots, images, strict=False):
        begin(slot, image)
    assert_answers(runtime.slots[0].wait(LONG_S), expected(images[0]))


def test_double_start_and_wait(batched: Callable[..., TensorRtRuntime]) -> None:
    """A part that was not answered keeps its slot; one that was not started has no answer."""
    runtime = batched(PATIENT)
    with pytest.raises(EngineFault, match="not started"):
        runtime.slots[0].wait(1.0)
    runtime.slots[0].start()
    with pytest.raises(EngineFault, match="the one before still runs"):
        runtime.slots[0].start()


def test_a_failure_is_every_parts(batched: Callable[..., TensorRtRuntime], fake: SimpleNamespace) -> None:
    """A batch that cannot be started is a fault for each of its parts; the next batch is judged again."""
    runtime = batched(GpuOptions(graphs=False))
    images = part_images(BATCH)
    fake.tensorrt.fail.add("execute_async_v3")
    for slot, image in zip(runtime.slots, images, strict=False):
        begin(slot, image)
    for slot in runtime.slots[:BATCH]:
        with pytest.raises(EngineFault, match="TensorRT says no"):
            slot.wait(LONG_S)
    fake.tensorrt.fail.clear()
    for slot, image in zip(runtime.slots, images, strict=False):
        begin(slot, image)
    assert_answers(runtime.slots[3].wait(LONG_S), expected(images[3]))
