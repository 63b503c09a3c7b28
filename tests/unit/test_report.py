"""The calibration report: one file, nothing from outside, and the figures that a person needs."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bundle_making import CANVAS, good_scores, make_content

from calibration.errors import CalibrationError
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
