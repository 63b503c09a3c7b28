"""Where an inference's time goes: each layer of the compiled engine, by the submodule it is of and by what it does."""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarking.engine import WARM_UP, golden_images
from benchmarking.machine import markdown_table
from engines.artifact import Bundle
from engines.runtimes.openvino import INPUT_NAME, compile_engine, parse_precision

MODULE = re.compile(
    r"(?:network\.)?("
    r"teachers\.\d+(?:\.(?:stages|levels|layers)\.\d+)?|student(?:\.(?:stages|levels|layers)\.\d+)?|tail\.\w+|[a-z_]\w*"
    r")"
)
ELSEWHERE = "input, layouts between"
COUNTED = 8
LEAST_TURNS = 5
LONGEST = 12


@dataclass(frozen=True, slots=True)
class LayerTime:
    """One layer that was executed: its name in the graph, its submodule, what it does and in which way, and its ms."""

    name: str
    module: str
    operation: str
    kernel: str
    ms: float


@dataclass(frozen=True, slots=True)
class EngineProfile:
    """The layers' medians, and the median of whole inferences meanwhile, in ms."""

    layers: Sequence[LayerTime]
    whole_ms: float
    inferences: int
    threads: int


def profile_engine(bundle: Bundle, threads: int, seconds: float) -> EngineProfile:
    """Run the bundle's own engine on its golden images for so long, counting each layer. Raises EngineUnavailable.

    OpenVINO counts means since the engine was compiled, which one inference that was interrupted spoils: it is compiled
    again and again, COUNTED inferences each time, and the median of these means is a layer's time.
    """
    images = golden_images(bundle)
    means: list[list[float]] = []
    whole_ms: list[float] = []
    end_s = time.perf_counter() + seconds
    while len(means) < LEAST_TURNS or time.perf_counter() < end_s:
        compiled = _compiled(bundle, threads)
        request = compiled.create_infer_request()
        _inferred_ms(request, images, WARM_UP)
        before = _counted_ms(request, WARM_UP)
        whole_ms += _inferred_ms(request, images, COUNTED)
        after = _counted_ms(request, WARM_UP + COUNTED)
        means.append([max(0.0, late - early) / COUNTED for early, late in zip(before, after, strict=True)])
    modules = _modules(compiled.get_runtime_model().get_ordered_ops())
    layers = [
        LayerTime(
            layer.node_name,
            modules.get(layer.node_name, ELSEWHERE),
            operation_of(layer.node_type, layer.exec_type),
            layer.exec_type,
            float(np.median(taken)),
        )
        for layer, taken in zip(request.profiling_info, zip(*means, strict=True), strict=True)
        if layer.status.name == "EXECUTED" or any(taken)
    ]
    return EngineProfile(layers, float(np.median(whole_ms)), len(whole_ms), threads)


def _compiled(bundle: Bundle, threads: int) -> Any:
    """The bundle's own engine, that counts its layers."""
    engine = bundle.manifest.engine
    model, precision = bundle.path(engine.files["model"]), parse_precision(engine.precision)
    return compile_engine(model, precision, threads=threads, count_layers=True)


def _inferred_ms(request: Any, images: NDArray[np.uint8], inferences: int) -> list[float]:
    """What each of so many inferences took."""
    taken = []
    for turn in range(inferences):
        started_s = time.perf_counter()
        request.infer({INPUT_NAME: images[turn % len(images)][None]})
        taken.append((time.perf_counter() - started_s) * 1e3)
    return taken


def _counted_ms(request: Any, inferences: int) -> list[float]:
    """What each layer took in all inferences so far, in their order: names that OpenVINO makes up change as it compiles
    anew. One that was optimised away is there, too, with no time."""
    return [inferences * layer.real_time.total_seconds() * 1e3 for layer in request.profiling_info]


def module_of(name: str) -> str | None:
    """The submodule of a layer by its name, where the exporter put it before a `/`; None where it has none.

    network.teachers.1.stages.0.3.0.bn1/node_Conv_2852 -> teachers.1.stages.0
    """
    path, slash, _ = name.partition("/")
    found = MODULE.match(path)
    return found[1] if slash and found and path != "network" else None


def operation_of(node_type: str, kernel: str) -> str:
    """What a layer does, for people: convolutions by their kind."""
    if node_type == "GroupConvolution":
        return "convolution, by group or channel"
    if node_type == "Convolution":
        return "convolution, 1x1" if "1x1" in kernel else "convolution, larger"
    return {"ConvolutionBackpropData": "deconvolution", "Subgraph": "elementwise, fused"}.get(node_type, node_type)


def profile_tables(profiles: Iterable[tuple[Bundle, EngineProfile]]) -> str:
    """Markdown: for each bundle the time by submodule, by operation, and the longest layers."""
    tables = []
    for bundle, profile in profiles:
        total_ms = sum(layer.ms for layer in profile.layers)
        tables.append(
            f"`{bundle.station}` {bundle.short_hash}, {bundle.manifest.engine.precision}, threads {profile.threads}: "
            f"{profile.whole_ms:.2f} ms an inference, {total_ms:.2f} ms in its {len(profile.layers)} layers "
            f"(medians of {profile.inferences})"
        )
        for title, key in (("submodule", _by_module), ("operation", _by_operation)):
            sums = _sums(profile.layers, key)
            rows = [(name, str(count), f"{ms:.3f}", _share(ms, total_ms)) for name, (ms, count) in sums.items()]
            tables.append(markdown_table((title, "layers", "ms", "share"), rows))
        longest = sorted(profile.layers, key=lambda layer: -layer.ms)[:LONGEST]
        rows = [(f"`{layer.name}`", layer.kernel, f"{layer.ms:.3f}", _share(layer.ms, total_ms)) for layer in longest]
        tables.append(markdown_table(("longest layers", "kernel", "ms", "share"), rows))
    return "\n\n".join(tables)


def _by_module(layer: LayerTime) -> str:
    return layer.module


def _by_operation(layer: LayerTime) -> str:
    return layer.operation


def _share(ms: float, total_ms: float) -> str:
    return f"{ms / total_ms:.1%}"


def _sums(layers: Sequence[LayerTime], key: Callable[[LayerTime], str]) -> dict[str, tuple[float, int]]:
    """Name -> (ms, layers), the longest first."""
    sums: dict[str, list[float]] = defaultdict(list)
    for layer in layers:
        sums[key(layer)].append(layer.ms)
    return dict(sorted(((name, (sum(taken), len(taken))) for name, taken in sums.items()), key=lambda row: -row[1][0]))


def _modules(ops: Sequence[Any]) -> Mapping[str, str]:
    """Layer name -> submodule; a layer that OpenVINO named itself is of what it was made of, else of what it feeds on,
    else of what feeds on it."""
    modules: dict[str, str] = {}
    for op in ops:
        name = op.get_friendly_name()
        made_of = str(op.get_rt_info()["originalLayersNames"].value).split(",")
        sources = (modules.get(value.get_node().get_friendly_name()) for value in op.input_values())
        named = (module for module in (module_of(name), *map(module_of, made_of), *sources) if module is not None)
        if (module := next(named, None)) is not None:
            modules[name] = module
    for op in reversed(ops):
        for value in op.input_values():
            name = value.get_node().get_friendly_name()
            if name not in modules and op.get_friendly_name() in modules:
                modules[name] = modules[op.get_friendly_name()]
    return modules
