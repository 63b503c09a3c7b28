"""Settings files and key files: whatever they hold is taken, or refused in one line, in bounded time and memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from line_values import settings as raw_settings

from inspectd.config import Station, load_station
from inspectd.errors import KeysError, SettingsError
from inspectd.wire.keys import new_pair, read_public_key, server_text
from inspectd.yaml_file import MAX_BYTES, read_mapping

LIMITS = settings(max_examples=150, deadline=3000, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = yaml.safe_dump(raw_settings(Path("x"))).encode()
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12) | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


def taken_or_refused(path: Path, data: bytes) -> Station | None:
    """The station, or None where it was refused in one line that names the file."""
    path.write_bytes(data)
    refusal = ""
    try:
        return load_station(str(path))
    except SettingsError as error:
        refusal = str(error)
    assert refusal.startswith(str(path))
    assert refusal.isprintable()
    assert len(refusal) < 10_000
    return None


@LIMITS
@given(data=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_arbitrary_bytes_are_refused(tmp_path: Path, data: bytes) -> None:
    """No station is that short."""
    assert taken_or_refused(tmp_path / "s.yaml", data) is None


@LIMITS
@given(
    cuts=st.lists(
        st.tuples(
            st.integers(0, len(GOOD)),
            st.integers(0, 12),
            st.binary(max_size=6)
            | st.sampled_from(
                [b"\n- ", b": ", b"{", b"[", b"&a ", b"*a", b"!!int ''", b"<<: ", b"\t", b"\x85", b"9" * 30]
            ),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_mutated_settings_are_taken_or_refused(tmp_path: Path, cuts: list[tuple[int, int, bytes]]) -> None:
    """A good file with pieces cut out and others put in: a station, or one line; never a traceback."""
    data = GOOD
    for at, length, more in cuts:
        data = data[:at] + more + data[at + length :]
    taken_or_refused(tmp_path / "s.yaml", data)


@LIMITS
@given(section=st.sampled_from([*Station.model_fields]), value=VALUES)
def test_any_value_in_any_section_is_taken_or_refused(tmp_path: Path, section: str, value: Any) -> None:
    """Wrong types, huge numbers, NaN, dates, nested lists: a station, or one line that names the section."""
    raw = {**raw_settings(tmp_path), section: value}
    taken_or_refused(tmp_path / "s.yaml", yaml.safe_dump(raw, allow_unicode=True).encode())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: &a [x]\nb: [*a, *a]\n", "alias *a: write the values out"),
        ("a: &a {k: v}\nb: &b {<<: [*a, *a]}\nc: {<<: [*b, *b]}\n", "alias *a"),
        ("a: !!python/object/apply:os.system [x]\n", "tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!int ''\n", "tag tag:yaml.org,2002:int"),
        ("station: a\nstation: b\n", "'station' is given twice"),
        ("a: 2001-99-99\n", "month must be in 1..12"),
        (f"a: {'9' * 5000}\n", "not valid YAML"),
        ("[" * 5000, "nested too deeply"),
        ("? [a]\n: b\n", "unhashable"),
        ("- a\n", "found list"),
        ("station: x\nline: {a: 1\nb: 2\n", "not valid YAML: line 3, column 2: while parsing a flow mapping"),
        ("", "found NoneType"),
        ("x" * (MAX_BYTES + 1), "so no settings"),
    ],
)
def test_what_settings_do_not_need_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """Aliases, which unfold to any size, tags, doubled keys and files that are too large, each in one line."""
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as refusal:
        read_mapping(path)
    assert why in str(refusal.value)
    assert str(refusal.value).isprintable()


def test_a_pipe_is_no_settings_file(tmp_path: Path) -> None:
    """It is refused at once, not waited for."""
    os.mkfifo(tmp_path / "s.yaml")
    with pytest.raises(SettingsError, match="is no file"):
        load_station(str(tmp_path / "s.yaml"))


def test_thousands_of_faults_stay_one_short_line(tmp_path: Path) -> None:
    """The first ten are named, and how many more there are."""
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({f"unknown{number}": 1 for number in range(3000)}))
    with pytest.raises(SettingsError, match=r"unknown setting; .* and \d+ more$") as refusal:
        load_station(str(path))
    assert len(str(refusal.value)) < 1000


KEY = server_text(new_pair(), "test").encode()


@LIMITS
@given(at=st.integers(0, len(KEY)), length=st.integers(0, 60), more=st.binary(max_size=60))
def test_mutated_key_files_are_keys_or_refused(tmp_path: Path, at: int, length: int, more: bytes) -> None:
    """A key file with bytes cut out and put in: a key of 40 characters, or one line."""
    path = tmp_path / "client.key"
    path.write_bytes(KEY[:at] + more + KEY[at + length :])
    key, refusal = b"", ""
    try:
        key = read_public_key(path)
    except KeysError as error:
        refusal = str(error)
    assert len(key) == 40 or refusal.startswith(str(path))
    assert "\n" not in refusal
