"""How a program of this project ends: one line for each error, and the exit codes of docs/exit_codes.md."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Callable

from engines.writing import NO_ROOM_CODES, says_no_room

EXIT_INTERNAL = 1
EXIT_STORAGE = 8
EXIT_CHANGED = 11
EXIT_PROMISE_BROKEN = 14
EXIT_NOT_PROVED = 15
EXIT_INCOMPLETE = 16
EXIT_INTERRUPTED = 130


def run_program(name: str, arguments: list[str], program: Callable[[list[str]], int]) -> int:
    """Run `program` on the command line's arguments and return its exit code; an error becomes one line, and its code.

    `--debug` anywhere among the arguments is taken out, and shows the traceback of an error.
    """
    debug = "--debug" in arguments
    try:
        return program([argument for argument in arguments if argument != "--debug"])
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away: nothing is left to tell it
        return EXIT_INTERNAL
    except Exception as error:
        if debug:
            traceback.print_exc()
        return explain(name, error)


def explain(name: str, error: Exception) -> int:
    """Print one line that says what is wrong, and return the exit code that goes with it."""
    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int):
        sys.stderr.write(f"{name}: {error}\n")
        return exit_code
    if isinstance(error, OSError) and error.errno in {*NO_ROOM_CODES, errno.EROFS}:
        where = error.filename or "storage"
        sys.stderr.write(f"{name}: {where}: {error.strerror}; free space or choose another folder\n")
        return EXIT_STORAGE
    if says_no_room(error):
        sys.stderr.write(f"{name}: storage: {' '.join(str(error).split())}; free space or choose another folder\n")
        return EXIT_STORAGE
    if isinstance(error, PermissionError) and error.filename:
        sys.stderr.write(f"{name}: {error.filename}: {error.strerror}; check who owns it, and who runs {name}\n")
        return EXIT_STORAGE
    sys.stderr.write(f"{name}: internal error: {type(error).__name__}: {error} (run again with --debug to see where)\n")
    return EXIT_INTERNAL
