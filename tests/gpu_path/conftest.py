"""Networks are built and exported once for all tests of the GPU path."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from families import FAMILIES, Family


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Family]]:
    """All families by name; each is built when it is first asked for. One thread: they are small."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("families")
    yield {name: Family(name, folder) for name in FAMILIES}
    torch.set_num_threads(threads)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest, made: dict[str, Family]) -> Family:
    """Each family in turn."""
    return made[request.param]
