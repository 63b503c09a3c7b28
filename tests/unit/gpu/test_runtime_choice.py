"""Which runtime is taken, and what is said: packages and driver here are fakes, put into sys.modules."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from bundle_making import MeanRuntime, make_bundle

from engines import runtimes
from engines.artifact import Bundle
from engines.errors import EngineUnavailable
from engines.gpu import find_gpu, import_tensorrt
from engines.plans import Plan, PlanCache, PlanPrecision, Reproduced, plan_key
from engines.runtimes import load_chosen
from engines.runtimes.choice import choose_runtime
from engines.settings import EngineSettings

Install = Callable[..., None]


class FakeCudaError(Exception):
    """Stands in for pycuda.driver.Error."""


class FakeDriver(ModuleType):
    """A fake pycuda.driver with these devices, each a name and a compute capability."""

    Error = FakeCudaError

    def __init__(self, devices: list[tuple[str, tuple[int, int]]], fault: str = "") -> None:
        super().__init__("pycuda.driver")
        self._devices, self._fault = devices, fault
        self.Device = type("Device", (), {"count": staticmethod(lambda: len(devices))})
        self.Device.__init__ = lambda device, number: None  # type: ignore[method-assign,misc,assignment]
        self.Device.name = lambda device: devices[0][0]  # type: ignore[attr-defined]
        self.Device.compute_capability = lambda device: devices[0][1]  # type: ignore[attr-defined]

    def init(self) -> None:
        """As cuInit, with its fault."""
        if self._fault:
            raise FakeCudaError(self._fault)


def fake_package(name: str, version: str) -> ModuleType:
    """A fake tensorrt of that version."""
    module = ModuleType(name)
    module.__version__ = version  # type: ignore[attr-defined]
    return module


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes these fakes, and nothing else, importable."""

    def put(driver: ModuleType | None = None, **versions: str) -> None:
        for name in ("pycuda", "pycuda.driver", "tensorrt", "tensorrt_rtx"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setattr(sys, "meta_path", [_Hidden(), *sys.meta_path])
        if driver is not None:
            monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
            monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        for name, version in versions.items():
            monkeypatch.setitem(sys.modules, name, fake_package(name, version))

    return put


class _Hidden:
    """Keeps what may really be installed on this machine from being found."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse the GPU path's packages."""
        if name.partition(".")[0] in {"pycuda", "tensorrt", "tensorrt_rtx"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


GPU = [("NVIDIA L4", (8, 9))]


@pytest.mark.parametrize(
    ("driver", "versions", "said"),
    [
        (None, {}, r"PyCUDA is not installed .*pip install 'inspectd\[gpu\]'"),
        (FakeDriver([], fault="no CUDA-capable\ndevice is detected"), {}, "finds no GPU .*no CUDA-capable device"),
        (FakeDriver([]), {}, "finds no GPU"),
        (FakeDriver([("Tesla V100", (7, 0))]), {"tensorrt": "11.4.0"}, "V100 has compute capability 7.0"),
        (FakeDriver(GPU), {}, r"TensorRT is not installed: pip install 'inspectd\[gpu\]'"),
        (FakeDriver(GPU), {"tensorrt": "8.6.1"}, r"tensorrt 8.6.1 is older than 10.0"),
        (FakeDriver(GPU), {"tensorrt_rtx": "1.0.0.3"}, r"tensorrt_rtx 1.0.0.3 is older than 1.2"),
        (FakeDriver(GPU), {"tensorrt": "11.4.0.106"}, "holds no plan f32 for NVIDIA L4 .SM 89., tensorrt 11.4.0.106"),
    ],
)
def test_what_is_missing_is_one_line(
    tmp_path: Path, install: Install, driver: ModuleType | None, versions: dict[str, str], said: str
) -> None:
    """Asked for by name, TensorRT is refused with what is missing; `auto` takes the bundle's own and says the same."""
    install(driver, **versions)
    bundle = make_bundle(tmp_path)
    engine = EngineSettings(runtime="tensorrt", plans=str(tmp_path / "plans"))
    with pytest.raises(EngineUnavailable, match=said) as refused:
        choose_runtime(bundle, engine)
    assert str(refused.value).startswith("engine.runtime tensorrt: ")
    assert "\n" not in str(refused.value)
    choice = choose_runtime(bundle, engine.model_copy(update={"runtime": "auto"}))
    assert (choice.runtime, choice.plan) == ("openvino", None)
    assert str(refused.value).removeprefix("engine.runtime tensorrt: ") in choice.why


def test_a_missing_driver_library_is_not_a_missing_package(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyCUDA that cannot load libcuda.so.1 means that the driver is missing, and the line says so."""

    class NoDriver:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "pycuda.driver":
                raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")

    install()
    monkeypatch.setitem(sys.modules, "pycuda", ModuleType("pycuda"))
    monkeypatch.setattr(sys.modules["pycuda"], "__path__", [], raising=False)
    monkeypatch.setattr(sys, "meta_path", [NoDriver(), *sys.meta_path])
    with pytest.raises(EngineUnavailable, match=r"the NVIDIA driver is missing \(libcuda\.so\.1"):
        find_gpu()


def test_a_package_that_cannot_load_is_named(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT whose own libraries are missing is called broken, not absent, and TensorRT for RTX is taken instead."""

    class Broken:
        def find_spec(self, name: str, path: object, target: object = None) -> None:
            if name == "tensorrt":
                raise ImportError("libnvinfer.so.11: cannot open shared object file")

    install()
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(EngineUnavailable, match=r"tensorrt cannot be imported \(libnvinfer"):
        import_tensorrt()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_package("tensorrt_rtx", "1.7.1.116"))
    assert import_tensorrt().package == "tensorrt_rtx"


def keep_plan(bundle: Bundle, engine: EngineSettings, precision: PlanPrecision, batch: int = 1) -> None:
    """An accepted plan of the bundle for the fake GPU and the fake package."""
    key = plan_key(bundle, find_gpu(), import_tensorrt(), precision, batch=batch)
    with PlanCache(Path(engine.plans), engine.plans_bytes).draft(key, precision.encode(), None) as draft:
        draft.accept(Reproduced(images=1, worst_deviation=0.0))


def test_auto_takes_the_fastest_plan_that_is_there(tmp_path: Path, install: Install) -> None:
    """auto prefers f16 to f32, never int8, which has to be asked for by name; and says what it took."""
    install(FakeDriver(GPU), tensorrt="11.4.0.106")
    bundle = make_bundle(tmp_path)
    engine = EngineSettings(plans=str(tmp_path / "plans"))
    taken = []
    for precision in ("int8", "f32", "f16"):
        keep_plan(bundle, engine, precision)
        choice = choose_runtime(bundle, engine)
        taken.append(None if choice.plan is None else choice.plan.key.precision)
    assert taken == [None, "f32", "f16"]
    assert "plan f16 for NVIDIA L4 (SM 89), tensorrt 11.4.0.106" in choice.why
    named = choose_runtime(bundle, engine.model_copy(update={"plan_precision": "int8"}))
    assert named.plan is not None
    assert named.plan.serialised == b"int8"


def test_a_plan_of_another_batch_is_not_taken(tmp_path: Path, install: Install) -> None:
    """A station's batch is part of what its plan is looked for by; `auto` says which is missing, and goes on."""
    install(FakeDriver(GPU), tensorrt="11.4.0.106")
    bundle = make_bundle(tmp_path)
    engine = EngineSettings(plans=str(tmp_path / "plans"), batch=4)
    keep_plan(bundle, engine, "f16")
    choice = choose_runtime(bundle, engine)
    assert (choice.runtime, choice.plan) == ("openvino", None)
    assert "holds no plan f32 of 4 parts for NVIDIA L4" in choice.why
    keep_plan(bundle, engine, "f16", batch=4)
    found = choose_runtime(bundle, engine)
    assert found.plan is not None
    assert found.plan.key.batch == 4
    assert "plan f16 of 4 parts for NVIDIA L4" in found.why


def test_auto_never_asks_for_a_gpu_where_the_settings_name_another(tmp_path: Path, install: Install) -> None:
    """engine.runtime openvino and torch look for no device at all."""
    install(FakeDriver([], fault="asked"))
    bundle = make_bundle(tmp_path)
    for name in ("openvino", "torch"):
        choice = choose_runtime(bundle, EngineSettings.model_validate({"runtime": name}))
        assert choice.why == f"engine.runtime: {name}"


def test_a_plan_that_cannot_be_loaded(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """auto goes on with the bundle's own engine and says why; asked for by name, it is an error."""
    install(FakeDriver(GPU), tensorrt="11.4.0.106")
    bundle = make_bundle(tmp_path)
    engine = EngineSettings(plans=str(tmp_path / "plans"))
    keep_plan(bundle, engine, "f16")
    own = MeanRuntime()

    def refuse(plan: Plan, batch_wait_ms: float) -> MeanRuntime:
        raise EngineUnavailable("the engine does not fit this GPU: out of memory")

    monkeypatch.setattr(runtimes, "run_plan", refuse)
    monkeypatch.setattr(runtimes, "_load_own", lambda bundle, engine, runtime: own)
    chosen = load_chosen(bundle, engine)
    assert chosen.runtime is own
    assert "out of memory" in chosen.why
    with pytest.raises(EngineUnavailable, match="out of memory"):
        load_chosen(bundle, engine.model_copy(update={"runtime": "tensorrt"}))
