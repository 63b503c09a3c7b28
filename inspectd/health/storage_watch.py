"""How full the records are, and what will be deleted for want of room: said before it happens."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from prometheus_client import CollectorRegistry, Gauge

from inspectd.sections import RecordSettings
from inspectd.wire.public import Json

NEARLY_FULL = 0.9
MOST_WAL_BYTES = 8 * 2**20
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the records take at one moment.

    rows_bytes: used pages of the database. images_bytes: all images; evidence_bytes: those of rejected and invalid
    parts among them. wal_bytes: what is written and not yet in the database. pinned_by: who keeps the WAL from being
    emptied, or nobody. rows_days, evidence_days: from the oldest row, and the oldest such image, to the newest row.
    rows_hold_days: how long the share of the rows lasts at the pace of the newest parts; None where that is not known.
    """

    rows_bytes: int
    images_bytes: int
    evidence_bytes: int = 0
    wal_bytes: int = 0
    pinned_by: str = ""
    rows_days: float = 0.0
    evidence_days: float = 0.0
    rows_hold_days: float | None = None

    @property
    def total_bytes(self) -> int:
        """Rows, images and WAL together."""
        return self.rows_bytes + self.images_bytes + self.wal_bytes


@dataclass(frozen=True, slots=True)
class Shares:
    """What each side keeps of `records.keep_bytes` for certain; it may take more while the other leaves it.

    wal_bytes: of `keep_bytes`, what the WAL may take before it is emptied; neither side has it.
    """

    keep_bytes: int
    wal_bytes: int
    rows_bytes: int
    images_bytes: int

    @classmethod
    def of(cls, keep_bytes: int, rows_share: float) -> Shares:
        """Divide `keep_bytes`, less what the WAL needs: rows get `rows_share` of it (0 to 1), images the rest."""
        wal_bytes = min(MOST_WAL_BYTES, keep_bytes // 8)
        rows_bytes = round((keep_bytes - wal_bytes) * rows_share)
        return cls(keep_bytes, wal_bytes, rows_bytes, keep_bytes - wal_bytes - rows_bytes)

    def rows_to_go_bytes(self, usage: Usage) -> int:
        """By how much rows must shrink: no more than they take beyond their share.

        A WAL that a reader keeps large is no reason: to delete rows makes it larger, and frees nothing meanwhile.
        """
        excess = usage.rows_bytes + usage.images_bytes - (self.rows_bytes + self.images_bytes)
        return max(0, min(excess, usage.rows_bytes - self.rows_bytes))

    def images_to_go_bytes(self, usage: Usage) -> int:
        """By how much images must shrink: no more than they take beyond their share."""
        wal_bytes = max(self.wal_bytes, usage.wal_bytes)
        excess = usage.rows_bytes + usage.images_bytes + wal_bytes - self.keep_bytes
        return max(0, min(excess, usage.images_bytes - self.images_bytes))


class StorageWatch:
    """Told by the recorder's thread what the records take; read by health. Safe across threads.

    Degraded from nine tenths of `keep_bytes` on, where what goes next is what `keep_days` promises to keep: rows, or
    images of rejected and invalid parts. Images of passed parts go without a word.
    """

    def __init__(self, settings: RecordSettings, registry: CollectorRegistry) -> None:
        self._keep_days = settings.keep_days
        self._shares = Shares.of(settings.keep_bytes, settings.rows_share)
        self._usage: Usage | None = None
        self._told: list[str] = []
        self._used = Gauge("inspectd_records_bytes", "what the records take", ["of"], registry=registry)
        share = Gauge(
            "inspectd_records_share_bytes", "what each side keeps of records.keep_bytes", ["of"], registry=registry
        )
        share.labels("rows").set(self._shares.rows_bytes)
        share.labels("images").set(self._shares.images_bytes)
        text = "how long the share of the rows lasts at the pace of the newest parts"
        self._hold_days = Gauge("inspectd_records_rows_hold_days", text, registry=registry)
        for side in ("rows", "images", "wal"):
            self._used.labels(side).set(0)

    def take(self, usage: Usage) -> None:
        """Note what the records take now; what begins to be short is one log line."""
        self._usage = usage
        self._used.labels("rows").set(usage.rows_bytes)
        self._used.labels("images").set(usage.images_bytes)
        self._used.labels("wal").set(usage.wal_bytes)
        if usage.rows_hold_days is not None:
            self._hold_days.set(usage.rows_hold_days)
        short = self._short(usage)
        for what, line in short.items():
            if what not in self._told:
                log.warning("the records are nearly full", why=line)
        self._told = list(short)

    def worries(self) -> list[str]:
        """One line for each side that is nearly full of what is to be kept, and for a WAL that cannot be emptied."""
        usage = self._usage
        if usage is None:
            return []
        pinned = (
            f"the WAL of the records grows ({usage.wal_bytes / 2**20:.1f} MiB) while {usage.pinned_by} reads them "
            "in one transaction: end it; `inspectd records snapshot` makes a copy that may be kept open"
        )
        return [*([pinned] if usage.pinned_by else []), *self._short(usage).values()]

    def report(self) -> Json:
        """Bytes and days; null before the first look at them."""
        usage, shares = self._usage, self._shares
        return {
            "keep_bytes": shares.keep_bytes,
            "rows_share_bytes": shares.rows_bytes,
            "rows_bytes": None if usage is None else usage.rows_bytes,
            "images_bytes": None if usage is None else usage.images_bytes,
            "wal_bytes": None if usage is None else usage.wal_bytes,
            "rows_days": None if usage is None else round(usage.rows_days, 3),
            "rows_hold_days": None if usage is None or usage.rows_hold_days is None else round(usage.rows_hold_days, 3),
        }

    def _short(self, usage: Usage) -> dict[str, str]:
        """What goes next although `keep_days` would keep it, by side."""
        shares = self._shares
        if usage.total_bytes < NEARLY_FULL * shares.keep_bytes:
            return {}
        full = f"{100 * usage.total_bytes / shares.keep_bytes:.0f} % of records.keep_bytes are used"
        remedy = "raise records.keep_bytes or lower records.keep_days"
        short = {}
        if usage.rows_bytes >= NEARLY_FULL * shares.rows_bytes and usage.rows_days < self._keep_days:
            gone = f"the oldest records go next, with their images, after {usage.rows_days:.1f} days"
            short["rows"] = f"{full}: {gone}; {remedy}"
        if usage.evidence_bytes >= NEARLY_FULL * shares.images_bytes and usage.evidence_days < self._keep_days:
            gone = f"images of rejected and invalid parts go next, after {usage.evidence_days:.1f} days"
            short["images"] = f"{full}: {gone}; {remedy}"
        return short
