"""What tests over the FAKE CUDA driver and the FAKE TensorRT assert. Not a test module."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from tiny_plan import Expected

from engines.runtimes import Outputs


def assert_nothing_left(fake: SimpleNamespace) -> None:
    """Every allocation, page, context, recording and TensorRT object was given back."""
    assert not fake.cuda.leaks()
    assert not fake.tensorrt.alive


def assert_answers(outputs: Outputs, true: Expected) -> None:
    """Within float32 of the reference."""
    assert outputs.part_score == pytest.approx(true.part_score, rel=1e-4)
    np.testing.assert_allclose(outputs.region_scores, true.region_scores, rtol=1e-4)
    np.testing.assert_allclose(outputs.anomaly_map, true.anomaly_map, rtol=1e-5)
