"""The calibration report: one file, nothing from outside, and the figures that a person needs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from bundle_making import CANVAS, good_scores, make_content

from calibration.errors import CalibrationError
from calibration.plots import MappedPart, labelled_histogram, map_sheet, roc
from calibration.report import ReportData, SampleMaps, write_report


class Links(HTMLParser):
    """Collects what a browser would fetch, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect src and href."""
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href"}]

    def handle_data(self, data: str) -> None:
        """Collect the text."""
        self.text += data


def make_data(**changes: object) -> ReportData:
    """A report of a fitted station with maps and curves."""
    part, regions = good_scores()
    image = np.full((CANVAS.height_px, CANVAS.width_px, 3), 90, np.uint8)
    sample = SampleMaps(
        name="part <7>",
        part_image=image,
        reconstruction=np.full(image.shape[:2], 0.4),
        anomaly_map=np.eye(16, 24, dtype=np.float32),
        part_score=0.5,
    )
    values: dict[str, object] = {
        "content": make_content(),
        "part_scores": part,
        "region_scores": regions,
        "samples": (sample,),
        "curves": {"student": np.array([[0, 2.0], [10, 0.5]])},
        "warnings": ("dust on the lens",),
        "took_s": 12.0,
    }
    return ReportData(**{**values, **changes})  # type: ignore[arg-type]


def read(path: Path) -> Links:
    """Parse the report."""
    links = Links()
    links.feed(path.read_text(encoding="utf-8"))
    return links


def test_nothing_comes_from_outside(tmp_path: Path) -> None:
    """Every picture is inside the file; no address, script or style sheet is fetched."""
    write_report(tmp_path / "report.html", make_data())
    report = read(tmp_path / "report.html")
    assert len(report.fetched) == 7
    assert all(source.startswith("data:image/png;base64,") for source in report.fetched)
    assert not re.search(r"<script|@import|url\(|https?://", (tmp_path / "report.html").read_text())


def test_images_are_not_parts(tmp_path: Path) -> None:
    """Where parts have several images, the report says how many of each."""
    count = make_data().content.data.count
    write_report(tmp_path / "report.html", make_data(parts=1))
    text = " ".join(read(tmp_path / "report.html").text.split())
    assert f"1 parts good parts only, in {count} images; engine" in text
    write_report(tmp_path / "report.html", make_data(parts=count))
    assert "images; engine" not in " ".join(read(tmp_path / "report.html").text.split())


def test_states_what_a_person_needs(tmp_path: Path) -> None:
    """Expected rate with interval, parts, what was asked, warnings, engine, teachers and names as given."""
    data = make_data()
    write_report(tmp_path / "report.html", data)
    text = read(tmp_path / "report.html").text
    for expected in (
        "Station line1",
        "60 parts",
        "≤ 1 %",
        "dust on the lens",
        "60 good parts are too few",
        "limit, upper bound",
        "left",
        "efficientnet_lite0",
        "Apache-2.0",
        data.content.data.sha256,
        "part <7>",
    ):
        assert expected in text


def test_station_without_decoder_has_no_weights(tmp_path: Path) -> None:
    """No region weights, reconstructions, curves or parity where there are none."""
    content = make_content()
    bare = content.model_copy(
        update={"lambdas": (), "engine": content.engine.model_copy(update={"parity": ()})},
    )
    write_report(tmp_path / "report.html", make_data(content=bare, samples=(), curves={}))
    report = read(tmp_path / "report.html")
    assert len(report.fetched) == 2
    assert "Region weights" not in report.text


def test_scores_must_fit_the_regions(tmp_path: Path) -> None:
    """Scores of another number of regions are refused."""
    with pytest.raises(CalibrationError, match="for 2 regions"):
        write_report(tmp_path / "report.html", make_data(region_scores=np.zeros((60, 3))))


def test_a_sheet_of_maps_shows_what_stands_out() -> None:
    """One PNG; a defective part's peak is coloured, the same place of a good part keeps its look."""
    image = np.full((32, 48, 3), 90, np.uint8)
    mask = np.zeros((32, 48), dtype=np.bool_)
    mask[8:16, 8:16] = True
    quiet = np.random.default_rng(0).uniform(0.1, 0.2, (8, 12))
    loud = quiet.copy()
    loud[2:4, 2:4] = 3.0
    nothing = np.zeros_like(mask)

    def sheet(anomaly_map: np.ndarray) -> np.ndarray:
        good = MappedPart(title="a", about="", good=True, part_image=image, anomaly_map=quiet, mask=nothing)
        bad = MappedPart(title="b", about="", good=False, part_image=image, anomaly_map=anomaly_map, mask=mask)
        png = np.frombuffer(map_sheet([good, bad]), np.uint8)
        return cv2.imdecode(png, cv2.IMREAD_COLOR)

    plain, coloured = sheet(quiet), sheet(loud)
    assert plain.shape == coloured.shape
    changed = np.argwhere((plain != coloured).any(axis=2))
    assert len(changed) > 100
    # Only the second part's map, the fourth picture of six, may differ.
    assert changed[:, 1].min() > plain.shape[1] / 2
    assert changed[:, 1].max() < plain.shape[1] * 4 / 6


@pytest.mark.parametrize("spread", [1.0, 0.0])
def test_scores_and_roc_are_drawn_whatever_the_scores(spread: float) -> None:
    """Well apart or all equal: both are pictures."""
    scores = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, 3, 20)]) * spread
    defective = np.arange(40) >= 20
    for png in (labelled_histogram(scores, defective, 1.0 * spread), roc(scores, defective, scores > 0.9)):
        assert cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR) is not None
