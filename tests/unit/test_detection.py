"""What limits catch, what the oddest good part costs, and how a person leaves one out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from calibration.calibrate import OddGoodPart
from calibration.dataset import read_dataset
from calibration.detection import Asked, catching_in_words, caught_by, curve, odd_in_words, odd_parts, rejected
from calibration.errors import DataError
from calibration.fitted import Fitted
from calibration.made_defects import KINDS, MadeDefect
from inspectd.commands.calibrate import ProgressBars, asking, tell
from inspectd.commands.good_parts import read_excluded, without_excluded

ASKED = Asked(0.01, 0.95, ("whole",))


def fitted(scores: np.ndarray, defect_scores: np.ndarray) -> Fitted:
    """What calibration would have left: scores of one region alone matter here."""
    return Fitted(
        network=cast(Any, None),
        losses={},
        constants=cast(Any, None),
        lambdas=(),
        held_out=np.arange(len(scores)),
        part_scores=scores,
        region_scores=scores[:, None],
        patch_gmsd=np.zeros((len(scores), 1)),
        defect_scores=defect_scores[:, None],
    )


def defect(kind: str, size: str) -> MadeDefect:
    """A made defect of which only kind and size matter."""
    return MadeDefect(
        image=np.zeros((8, 8, 3), np.uint8), mask=np.ones((8, 8), np.bool_), kind=kind, size=size, source=0
    )


def test_one_odd_part_is_named_with_what_it_costs() -> None:
    """It stands out alone; without it the limit falls, and more made defects are caught."""
    rng = np.random.default_rng(0)
    scores = np.append(rng.normal(0, 1, 120), 12.0)
    defects = rng.uniform(0, 12, 200)
    found = odd_parts(fitted(scores, defects), ASKED)
    first, second = found[:2]
    assert first.index == 120
    assert first.stands_out
    assert not second.stands_out
    assert first.limit_without < first.limit
    assert first.caught_without > first.caught + 0.05
    words = odd_in_words("1512.png", first)
    assert "1512.png" in words
    assert f"{first.limit_without:.3g}" in words
    assert "--exclude" in words


def test_usual_parts_do_not_stand_out() -> None:
    """The highest of parts that are all of one kind is no reason to bother a person."""
    for seed in range(5):
        scores = np.random.default_rng(seed).normal(0, 1, 80)
        assert not any(odd.stands_out for odd in odd_parts(fitted(scores, scores), ASKED))


def test_made_defects_are_counted_by_kind_and_size() -> None:
    """Of all, by size, and by kind and size; what was not made is 0 of 0."""
    defects = [defect("stain", "small"), defect("stain", "large"), defect("bend", "large")]
    whole, by_size, by_kind = caught_by(defects, np.array([False, True, True]))
    assert (whole.caught, whole.made) == (2, 3)
    assert (by_size["small"].caught, by_size["small"].made) == (0, 1)
    assert (by_size["large"].caught, by_size["large"].made) == (2, 2)
    assert by_kind["stain", "large"].rate == 1
    assert by_kind[KINDS[0], "medium"].made == 0
    assert by_kind[KINDS[0], "medium"].rate == 0


def test_more_false_rejects_never_catch_less() -> None:
    """The curve over the false-reject rate rises, and has the asked rate among its points."""
    rng = np.random.default_rng(1)
    points = curve(fitted(rng.normal(0, 1, 400), rng.normal(2, 1, 200)), ASKED)
    assert (np.diff(points[:, 0]) >= 0).all()
    assert (np.diff(points[:, 1]) >= 0).all()
    limits = ASKED.limits(rng.normal(0, 1, (400, 1)))
    assert rejected(np.array([[limits.part.value + 1], [limits.part.value - 1]]), limits).tolist() == [True, False]


def test_what_limits_catch_is_said_with_what_a_higher_rate_would() -> None:
    """One line for the limits, one for a rate that catches noticeably more; the second only where there is one."""
    rng = np.random.default_rng(2)
    made = tuple(defect("stain", "large") for _ in range(200))
    close = replace(fitted(rng.normal(0, 1, 400), rng.normal(2.3, 0.7, 200)), defects=made)
    first, second = catching_in_words(close, ASKED)
    assert first.startswith("of the made defects ")
    assert "large" in first
    assert "calibration.false_reject_rate" in second
    far = replace(fitted(rng.normal(0, 1, 400), rng.normal(20, 1, 200)), defects=made)
    assert len(catching_in_words(far, ASKED)) == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Good parts a.png, b.png and c.png; nothing opens them."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    return tmp_path


def test_a_list_of_parts_to_leave_out_takes_names_and_paths(folder: Path, tmp_path: Path) -> None:
    """By name, relative or absolute path; comments, empty lines and an editor's mark at the start do not matter."""
    own = folder / "exclude.txt"
    own.write_text("# seen on Monday\n\na.png\n", encoding="utf-8-sig")
    more = tmp_path / "more.txt"
    more.write_text(f"{folder / 'b.png'}\n", encoding="utf-8")
    left, out = without_excluded(read_dataset(folder).good, folder, read_excluded(folder, more))
    assert [sample.path.name for sample in left] == ["c.png"]
    assert out == ["a.png", "b.png"]


def test_a_name_that_no_part_has_is_refused(folder: Path, tmp_path: Path) -> None:
    """A slip of the pen would leave the odd part in, unseen."""
    listed = tmp_path / "odd.txt"
    listed.write_text("d.png\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'d\.png' is to be left out, but no good part has this name"):
        without_excluded(read_dataset(folder).good, folder, read_excluded(folder, listed))
    with pytest.raises(DataError, match="cannot be read as a list"):
        read_excluded(folder, tmp_path / "absent.txt")


class Paused:
    """Progress bars that remember whether they made room for a question."""

    def __init__(self) -> None:
        self.times = 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count."""
        self.times += 1
        yield


def test_a_person_is_asked_once_about_each_odd_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """y leaves it out, anything else keeps it; whoever has answered is not asked again after all is learnt anew."""
    odd = [OddGoodPart(name, name, np.zeros((2, 2, 3), np.uint8), f"{name} is odd") for name in ("a", "b")]
    answers = iter(["y", ""])
    monkeypatch.setattr("builtins.input", lambda _prompt: next(answers))
    bars = Paused()
    confirm = asking(cast(ProgressBars, bars))
    assert confirm(odd) == ["a"]
    assert confirm(odd[1:]) == []
    assert bars.times == 2
    assert capsys.readouterr().err.splitlines() == ["a is odd", "b is odd"]


def test_without_a_terminal_odd_parts_are_told_of_and_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """A warning for each, on standard error; none is dropped by itself."""
    odd = [OddGoodPart("a", "a", np.zeros((2, 2, 3), np.uint8), "a is odd")]
    assert tell(odd) == ()
    assert capsys.readouterr().err == "inspectd: warning: a is odd\n"
