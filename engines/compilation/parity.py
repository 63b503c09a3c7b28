"""The third step of compilation: how far each candidate engine is from the f32 one, and how fast it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from engines.artifact import ParityRow
from engines.compilation.precision import Variant
from engines.runtimes import Runtime, infer
from engines.runtimes.openvino import Precision

MIN_RANK_CORRELATION: Final = 0.999
MEDIAN_NETWORK_ERROR: Final = 1e-4
MAX_NETWORK_ERROR: Final = 1e-3
"""Of a score, between the f32 engine and the trained network: of half the parts, and of the worst. Gates that round to
0 or 1 (SCConv's) let rounding reach 3e-4 on a part in a hundred; most faults of a compiler show on every part."""
MARGIN: Final = 0.05
TIMED_ROUNDS: Final = 7
ROUND_S: Final = 0.1

Verdicts = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.bool_]]
"""One engine's (Q,) part and (Q, R) region scores -> (Q,) rejected, by thresholds chosen on those very scores."""


@dataclass(frozen=True, slots=True)
class PartScores:
    """What one engine says of the Q parity parts: (Q,) part scores and (Q, R) region scores, float64."""

    part: NDArray[np.float64]
    regions: NDArray[np.float64]

    def finite(self) -> bool:
        """No NaN, no infinity."""
        return bool(np.isfinite(self.part).all() and np.isfinite(self.regions).all())


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant, its speed, its distance from f32, and its faults: empty where it keeps parity."""

    name: str
    precision: Precision
    median_ms: float
    rank_correlation: float
    max_abs_error: float
    max_rel_error: float
    verdict_changes: int
    faults: tuple[str, ...]


def own_quantile(rate: float) -> Verdicts:
    """Verdicts that reject the share `rate` of the parts given: part score above its own (1 - rate) quantile."""

    def reject(part: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.bool_]:
        limit = np.quantile(part, 1 - rate, method="lower")
        rejected: NDArray[np.bool_] = part > limit
        return rejected

    return reject


def score_parts(runtime: Runtime, parts: NDArray[np.uint8], progress: Callable[[int], None]) -> PartScores:
    """Score (Q, H, W, 3) uint8 part images one by one; tells `progress` how many are done. Raises EngineFault."""
    part: list[float] = []
    regions: list[NDArray[np.float64]] = []
    for done, image in enumerate(parts, start=1):
        outputs = infer(runtime, image)
        part.append(outputs.part_score)
        regions.append(outputs.region_scores.astype(np.float64))
        progress(done)
    return PartScores(np.asarray(part, dtype=np.float64), np.stack(regions))


def relative_errors(scores: PartScores, reference: PartScores) -> NDArray[np.float64]:
    """Each part's largest |score - reference| / max(|reference|, median |reference|) of part and region scores, (Q,).

    The median in the denominator keeps a score that happens to lie near zero from deciding. Scores that are not finite
    count as 0: they are a fault of their own.
    """
    found = np.column_stack([scores.part, scores.regions])
    true = np.column_stack([reference.part, reference.regions])
    scale = np.maximum(np.abs(true), np.median(np.abs(true), axis=0))
    error = np.abs(found - true) / np.maximum(scale, np.finfo(np.float32).tiny)
    worst: NDArray[np.float64] = np.where(np.isfinite(error), error, 0.0).max(axis=1)
    return worst


def median_ms(runtimes: Mapping[str, Runtime], part: NDArray[np.uint8]) -> dict[str, float]:
    """Median latency in ms of one part through each runtime; rounds are interleaved, so that all see one machine."""
    samples: dict[str, list[float]] = {name: [] for name in runtimes}
    for _ in range(TIMED_ROUNDS):
        for name, runtime in runtimes.items():
            infer(runtime, part)  # caches hold the engine that ran before
            end_s = time.perf_counter() + ROUND_S
            while (started_s := time.perf_counter()) < end_s or len(samples[name]) < 3:
                infer(runtime, part)
                samples[name].append((time.perf_counter() - started_s) * 1000)
    return {name: float(np.median(values)) for name, values in samples.items()}


def judge(
    variant: Variant, scores: PartScores, reference: PartScores, verdicts: Verdicts, latency_ms: float
) -> Candidate:
    """Compare one candidate's scores and verdicts with f32's, and name what is wrong with it."""
    if not scores.finite():
        rank, changes = 0.0, len(scores.part)
        faults = ["some scores are not finite"]
    else:
        rank = _rank_correlation(scores.part, reference.part)
        changed = verdicts(scores.part, scores.regions) != verdicts(reference.part, reference.regions)
        changes = int(np.count_nonzero(changed))
        faults = []
        if rank < MIN_RANK_CORRELATION:
            faults.append(f"rank correlation {rank:.5f} is below {MIN_RANK_CORRELATION}")
        if changes:
            faults.append(f"{changes} of {len(changed)} verdicts change")
    return Candidate(
        name=variant.name,
        precision=variant.precision,
        median_ms=latency_ms,
        rank_correlation=rank,
        max_abs_error=_largest_finite(np.abs(scores.part - reference.part)),
        max_rel_error=float(relative_errors(scores, reference).max()),
        verdict_changes=changes,
        faults=tuple(faults),
    )


def fastest(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest candidate that keeps parity; f32, the first, unless another beats it by more than MARGIN."""
    f32 = candidates[0]
    faster = [
        candidate
        for candidate in candidates[1:]
        if not candidate.faults and candidate.median_ms < f32.median_ms * (1 - MARGIN)
    ]
    return min(faster, key=lambda candidate: candidate.median_ms, default=f32)


def parity_rows(candidates: Sequence[Candidate], chosen: Candidate) -> tuple[ParityRow, ...]:
    """The table for the manifest and the report; `kept` marks the engine that goes into the bundle."""
    rows = []
    for candidate in candidates:
        good = "the reference" if candidate is candidates[0] else "keeps parity with f32"
        rows.append(
            ParityRow(
                precision=candidate.name,
                median_ms=candidate.median_ms,
                rank_correlation=candidate.rank_correlation,
                max_abs_error=candidate.max_abs_error,
                max_rel_error=candidate.max_rel_error,
                verdict_changes=candidate.verdict_changes,
                kept=candidate is chosen,
                why="; ".join(candidate.faults) or good,
            )
        )
    return tuple(rows)


def _largest_finite(values: NDArray[np.float64]) -> float:
    return float(np.max(values, where=np.isfinite(values), initial=0.0))


def _rank_correlation(scores: NDArray[np.float64], reference: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; 1 where both are constant, 0 where only one is."""
    constant = [bool(np.ptp(values) == 0) for values in (scores, reference)]
    if any(constant):
        return 1.0 if all(constant) else 0.0
    return float(np.clip(spearmanr(scores, reference).statistic, -1.0, 1.0))
