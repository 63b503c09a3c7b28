"""The benchmark's tables of layers and threads, from given figures."""

from __future__ import annotations

import pytest
from benchmarking.layers import module_of, operation_of
from benchmarking.threads import OTHERS, ThreadTimes, thread_costs


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("network.teachers.1.stages.0.3.0.bn3/node_Conv_2855/WithoutBiases", "teachers.1.stages.0"),
        ("network.student.stages.2.branch.2.1/node_Conv_2949", "student.stages.2"),
        ("network.student.stem.0.1/node_Conv_2933", "student"),
        ("network.memory/node_conv2d_80", "memory"),
        ("network.discriminator.members.1.fine.1.1/node_Conv_2972", "discriminator"),
        ("tail.patch_gmsd.groups.3/node_mean_12", "tail.patch_gmsd"),
        ("tail/node_max_1", "tail"),
        ("ConvolutionBackpropData_3471", None),
        ("network/node_cat_3", None),
    ],
)
def test_a_layer_is_known_by_the_submodule_in_its_name(name: str, module: str | None) -> None:
    """Teachers and student by level, the tail by what it makes; what says nothing is of nobody."""
    assert module_of(name) == module


def test_convolutions_are_told_apart() -> None:
    """By size and by channel: they are fast and slow for different reasons."""
    kinds = [
        operation_of("Convolution", "brgconv_avx2_1x1_f32"),
        operation_of("Convolution", "brgconv_avx2_f32"),
        operation_of("GroupConvolution", "jit_dw_avx2_f32"),
    ]
    assert len(set(kinds)) == 3
    assert all(kind.startswith("convolution") for kind in kinds)


def test_threads_of_one_name_cost_together_and_by_part() -> None:
    """Time between two looks, one that was born meanwhile included; what is next to nothing is one row."""
    ms = 1_000_000
    before = {1: ThreadTimes("inspect", 100 * ms, 10 * ms, 5), 2: ThreadTimes("python", 50 * ms, 0, 1)}
    after = {
        1: ThreadTimes("inspect", 200 * ms, 30 * ms, 105),
        2: ThreadTimes("python", 250 * ms, 0, 1),
        3: ThreadTimes("python", 100 * ms, 0, 0),
        4: ThreadTimes("log", 100, 0, 3),
        5: ThreadTimes("http", 200, 0, 2),
    }
    dearest, second, rest = thread_costs(before, after, 100)
    assert (dearest.name, dearest.on_core_ms) == ("python", pytest.approx(3.0))
    assert (second.name, second.on_core_ms, second.waited_ms, second.woken) == ("inspect", 1.0, 0.2, 1.0)
    assert (rest.name, rest.woken) == (OTHERS, pytest.approx(0.05))
