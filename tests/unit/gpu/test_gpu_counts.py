"""Bytes and operations of a graph, as the GPU benchmark counts them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, numpy_helper
from tiny_plan import STAGE

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "tools"))
from benchmarking.gpu import Ceilings, GpuFigures, gpu_table
from benchmarking.gpu_counts import GraphCounts, count_graph

from engines.kernels.cost import stage_cost
from engines.runtimes.gpu.stage import kernel_plan


@pytest.mark.parametrize(("kind", "width"), [(np.float32, 4), (np.float16, 2)])
def test_convolution_deconvolution_and_product(kind: type, width: int) -> None:
    """Two operations per product; constants once, inputs and outputs of these layers once each, in their own width."""
    rng = np.random.default_rng(0)
    constants = {
        "conv": rng.normal(size=(8, 4, 3, 3)),
        "up": rng.normal(size=(8, 2, 2, 2)),
        "product": rng.normal(size=(16, 5)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("ConvTranspose", ["b", "up"], ["c"], strides=[2, 2]),
        helper.make_node("MatMul", ["c", "product"], ["y"]),
    ]
    tensor = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    graph = helper.make_graph(
        nodes,
        "counted",
        [helper.make_tensor_value_info("x", tensor, (1, 4, 8, 8))],
        [helper.make_tensor_value_info("y", tensor, (1, 2, 16, 5))],
        [numpy_helper.from_array(value.astype(kind), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    counts = count_graph(model.SerializeToString())
    convolution, deconvolution, product = 8 * 8 * 8 * 4 * 9, 8 * 8 * 8 * 2 * 4, 2 * 16 * 5 * 16
    assert counts.operations == 2 * (convolution + deconvolution + product)
    assert counts.weight_bytes == width * sum(value.size for value in constants.values())
    ports = (4 * 64 + 8 * 64) + (8 * 64 + 2 * 256) + (2 * 256 + 2 * 16 * 5)
    assert counts.activation_bytes == width * ports
    assert counts.bytes_moved == counts.weight_bytes + counts.activation_bytes


def test_shares_take_in_the_kernels_own_count() -> None:
    """Operations and bytes of a part are the networks' and what the Patch_GMSD kernels count of themselves."""
    cost = stage_cost(kernel_plan(STAGE, 1))
    counts = GraphCounts(operations=3 * cost.operations, weight_bytes=1000, activation_bytes=2000)
    figures = GpuFigures(
        plan="f32 for a test",
        recorded=False,
        device_ms=1.0,
        host_median_ms=1.0,
        host_p99_ms=1.0,
        parts_per_s=1000.0,
        copied_bytes=0,
        counts=counts,
        stage=cost,
        ceilings=Ceilings(copy_gb_s=1.0, matmul_tflop_s=16 * cost.operations * 1000 / 1e12),
    )
    assert figures.operations == 4 * cost.operations
    assert figures.bytes_moved == 3000 + cost.memory_bytes
    assert "| 25.0% of " in gpu_table([figures])
