"""A set of sequence numbers kept as ranges, so that millions of them in a row cost no memory."""

from __future__ import annotations

from bisect import bisect_right


class Numbers:
    """Integers as sorted ranges that neither touch nor overlap; quick where numbers come nearly in order."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, first: int, last: int) -> None:
        """Add first..last."""
        low = bisect_right(self._lasts, first - 2)
        high = bisect_right(self._firsts, last + 1)
        if low < high:  # it joins those ranges
            first, last = min(first, self._firsts[low]), max(last, self._lasts[high - 1])
        self._firsts[low:high], self._lasts[low:high] = [first], [last]

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The ranges of first..last that are not in the set, by rising number."""
        gaps, expected = [], first
        for begin, end in zip(self._firsts, self._lasts, strict=True):
            if begin > last:
                break
            if begin > expected:
                gaps.append((expected, begin - 1))
            expected = max(expected, end + 1)
        if expected <= last:
            gaps.append((expected, last))
        return gaps

    def ranges(self) -> list[tuple[int, int]]:
        """All of them, by rising number."""
        return list(zip(self._firsts, self._lasts, strict=True))

    @property
    def largest(self) -> int:
        """The largest number, 0 where there is none."""
        return self._lasts[-1] if self._lasts else 0
