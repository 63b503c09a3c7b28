"""The command line: help, exit codes, one line per error."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inspectd.__main__ import COMMANDS, main
from inspectd.exits import explain


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`inspectd --help` lists each command and the exit codes."""
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(name in text for name in COMMANDS)
    assert "exit codes" in text


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_each_command_explains_itself_with_an_example(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`inspectd COMMAND --help` works and shows at least one example call."""
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert f"inspectd {name}" in capsys.readouterr().out.split("usage:", 1)[1].split("\n", 1)[1]


def test_a_wrong_setting_is_one_line_and_exit_code_3(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown station ends with code 3 and a single line, not a traceback."""
    assert main(["check", "--station", "nowhere"]) == 3
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("inspectd: no station named 'nowhere'")


def test_no_command_is_wrong_usage() -> None:
    """Without a command the exit code is 2."""
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2


@pytest.mark.parametrize("command", ["run", "check", "watch", "health"])
def test_the_daemons_commands_do_not_import_torch(command: str) -> None:
    """The daemon starts on a machine without torch: none of its commands imports it."""
    program = (
        "import sys; sys.modules['torch'] = None\n"
        f"import inspectd.commands.{command}, inspectd.__main__\n"
        "assert 'timm' not in sys.modules and 'calibration' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_file_that_may_not_be_opened_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """What no module expected to be refused still ends with the path and code 8, not as a fault of ours."""
    assert explain("inspectd", PermissionError(13, "Permission denied", "/etc/key")) == 8
    assert capsys.readouterr().err == (
        "inspectd: /etc/key: Permission denied; check who owns it, and who runs inspectd\n"
    )
