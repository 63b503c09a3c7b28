"""How a program of this project ends: one line for each error, and the exit codes of docs/exit_codes.md."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from engines.writing import NO_ROOM_CODES, says_no_room
from inspectd.streams import let_output_go, open_closed_streams, tell

EXIT_INTERNAL = 1
EXIT_STORAGE = 8
EXIT_CHANGED = 11
EXIT_PROMISE_BROKEN = 14
EXIT_NOT_PROVED = 15
EXIT_INCOMPLETE = 16
EXIT_INTERRUPTED = 130


def run_program(name: str, arguments: list[str], program: Callable[[list[str]], int]) -> int:
    """Run `program` on the command line's arguments and return its exit code; an error becomes one line, and its code.

    `--debug` anywhere among the arguments is taken out, and shows the traceback of an error. Output that could not be
    written is an error; standard streams may be closed.
    """
    open_closed_streams()
    debug = "--debug" in arguments
    try:
        return _to_the_end(program, [argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        tell(f"{name}: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        let_output_go()  # its reader went away: nothing is left to tell it
        return EXIT_INTERNAL
    except Exception as error:
        if debug:
            tell(traceback.format_exc().rstrip())
        code = explain(name, error)
        let_output_go()
        return code


def _to_the_end(program: Callable[[list[str]], int], arguments: list[str]) -> int:
    """Until what it printed has been written. Raises OSError where that cannot be."""
    try:
        code = program(arguments)
    except SystemExit:  # after the help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def explain(name: str, error: Exception) -> int:
    """Print one line that says what is wrong, and return the exit code that goes with it."""
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):
        tell(f"{name}: {error}")
        return exit_code
    if isinstance(error, OSError) and error.errno in {*NO_ROOM_CODES, errno.EROFS}:
        where = error.filename or "storage"
        tell(f"{name}: {where}: {error.strerror}; free space or choose another folder")
        return EXIT_STORAGE
    if says_no_room(error):
        tell(f"{name}: storage: {' '.join(str(error).split())}; free space or choose another folder")
        return EXIT_STORAGE
    if isinstance(error, PermissionError) and error.filename:
        tell(f"{name}: {error.filename}: {error.strerror}; check who owns it, and who runs {name}")
        return EXIT_STORAGE
    tell(f"{name}: internal error: {type(error).__name__}: {error} (run again with --debug to see where)")
    return EXIT_INTERNAL
