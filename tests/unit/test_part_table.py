"""The table of parts that `inspectd evaluate --parts` writes, and which score decides on a part."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from calibration.dataset import GOOD, Sample
from calibration.part_table import ErrorKind, JudgedPart, Limits, write_part_table

LIMITS = Limits(1.0, (("left", 0.8), ("part", 2.0)))


def judged(name: str, label: str, part_score: float, *region_scores: float) -> JudgedPart:
    """An inspected part, with the verdict that LIMITS give it."""
    return JudgedPart(
        sample=Sample(part_id=name, path=Path("set/test") / label / name, label=label),
        rejected=LIMITS.reject(part_score, region_scores),
        part_score=part_score,
        region_scores=region_scores,
    )


def invalid(label: str) -> JudgedPart:
    """A part that could not be inspected."""
    sample = Sample(part_id="lost", path=Path("set/test") / label / "lost.png", label=label)
    return JudgedPart(sample=sample, rejected=True, reason="no_part")


def table(path: Path, *parts: JudgedPart) -> list[dict[str, str]]:
    """Write the parts, and read the table as another program would."""
    write_part_table(path, parts, LIMITS)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_part_has_a_row_in_order_with_its_verdict_and_error(tmp_path: Path) -> None:
    """Missed is a defect that passes, wrongly rejected a good part that does not, INVALID or not."""
    rows = table(
        tmp_path / "parts.csv",
        judged("0.png", GOOD, 0.5, 0.1, 0.2),
        judged("1.png", GOOD, 0.9, 0.81, 0.2),
        judged("2.png", "crack", 1.01, 0.1, 0.2),
        judged("3.png", "crack", 1.0, 0.8, 2.0),
        invalid(GOOD),
        invalid("crack"),
    )
    assert [(row["verdict"], row["error"]) for row in rows] == [
        ("PASS", ""),
        ("REJECT", "wrongly rejected"),
        ("REJECT", ""),
        ("PASS", "missed"),
        ("INVALID", "wrongly rejected"),
        ("INVALID", ""),
    ]
    assert rows[0]["path"] == "set/test/good/0.png"
    assert [row["label"] for row in rows] == ["good", "good", "crack", "crack", "good", "crack"]
    assert [row["reason"] for row in rows] == ["", "", "", "", "no_part", "no_part"]


def test_scores_and_limits_stand_in_columns_of_their_own(tmp_path: Path) -> None:
    """With all their digits; empty where there is no score; a region may have any name, `part` too."""
    score = 0.8000000000000002
    scored, lost = table(tmp_path / "parts.csv", judged("0.png", "crack", 0.1, score, 0.3), invalid("crack"))
    assert float(scored["region_left_score"]) == score
    assert (scored["part_score"], scored["part_limit"]) == ("0.1", "1.0")
    assert (scored["region_left_limit"], scored["region_part_score"], scored["region_part_limit"]) == (
        "0.8",
        "0.3",
        "2.0",
    )
    assert (lost["part_score"], lost["region_left_score"], lost["region_part_score"]) == ("", "", "")
    assert (lost["part_limit"], lost["region_part_limit"]) == ("1.0", "2.0")


def test_names_of_any_kind_are_quoted_or_spelt_out(tmp_path: Path) -> None:
    """Commas, quotes and line ends are the reader's business no longer; a byte that is no UTF-8 is spelt as \\udcff."""
    names = ['a,b "c".png', "line\nend.png", "größe.png", b"caf\xe9.png".decode("utf-8", "surrogateescape")]
    rows = table(tmp_path / "parts.csv", *(judged(name, "crack", 0.1, 0.1, 0.1) for name in names))
    written = [row["path"].removeprefix("set/test/crack/") for row in rows]
    assert written == [*names[:3], r"caf\udce9.png"]


def test_a_table_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    """No half a table, and nothing beside it."""
    path = tmp_path / "parts.csv"
    path.write_text("old")
    broken = judged("1.png", "crack", 0.1, 0.1, 0.1)
    object.__setattr__(broken, "region_scores", ())
    with pytest.raises(IndexError):
        write_part_table(path, [judged("0.png", GOOD, 0.1, 0.1, 0.1), broken], LIMITS)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["parts.csv"]


@pytest.mark.parametrize(
    ("scores", "region", "margin"),
    [((0.5, 0.2, 0.2), "", -0.5), ((0.5, 0.6, 0.2), "left", -0.25), ((1.1, 0.8, 2.4), "part", 0.2)],
)
def test_the_score_nearest_to_its_limit_decides(scores: tuple[float, ...], region: str, margin: float) -> None:
    """Shares of each score's own limit are compared, not the scores."""
    decider = LIMITS.decider(judged("0.png", "crack", *scores))
    assert (decider.region, decider.margin) == (region, pytest.approx(margin))


def test_limits_of_nothing_and_below_still_order_parts() -> None:
    """Scores in deviations may be negative, and limits with them."""
    for limit in (0.0, -2.0):
        limits = Limits(limit, ())
        parts = [
            JudgedPart(
                sample=Sample(part_id="0", path=Path("0.png")), rejected=limits.reject(score, ()), part_score=score
            )
            for score in (limit - 1, limit, limit + 1)
        ]
        assert [part.error for part in parts] == [ErrorKind.NONE, ErrorKind.NONE, ErrorKind.WRONGLY_REJECTED]
        margins = [limits.decider(part).margin for part in parts]
        assert margins[0] < margins[1] == 0 < margins[2]
