"""Files that other libraries write: what a full disk makes them raise becomes the OSError that it is.

safetensors, OpenVINO, ONNX and torch each have an error of their own for a disk that takes no more, and some say
nothing of the disk in it. Whoever writes a file with them does it inside `writing`.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

NO_ROOM: Final = (
    "no space left on device",
    "os error 28",
    "disk quota exceeded",
    "os error 122",
    "file too large",
    "os error 27",
    "disk is full",
)
"""What libraries say of it, in lower case."""
NOT_WRITTEN: Final = ("iostream error", "pytorchstreamwriter")
"""What they say of any write that failed."""
NO_ROOM_CODES: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
LEAST_FREE_BYTES: Final = 1 << 20
"""With less room than this, an error that says nothing is one of the disk."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a file. Raises OSError (ENOSPC, with the file) for whatever a full disk made of it."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        not_written = any(words in str(error).lower() for words in NOT_WRITTEN)
        if not_written or says_no_room(error) or _is_full(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def says_no_room(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that there was no room."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen).lower()
        if any(words in text for words in NO_ROOM):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _is_full(path: Path) -> bool:
    """Whether the disk has next to no room, or the size of the files of this process is limited (RLIMIT_FSIZE)."""
    folder = path if path.is_dir() else path.parent
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
    return limited or found.f_bavail * found.f_frsize < LEAST_FREE_BYTES or found.f_favail == 0 < found.f_files
