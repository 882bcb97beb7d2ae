"""One process at a time in a folder."""

import fcntl
import os
from pathlib import Path

from ngrpo.errors import RunFolderError


def hold_folder(folder: Path, advice: str) -> int:
    """Makes sure that one process at a time works in a folder.

    Args:
        folder: It exists.
        advice: What else the user can do than wait, for the message.

    Returns:
        An open file descriptor that holds the lock until it is closed or the process ends, however it ends.

    Raises:
        RunFolderError: Another process has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise RunFolderError(f"another process is at work in {folder}. Wait until it ends, or {advice}.") from None
    except OSError:
        pass  # a file system without locks: then it is up to the user
    return descriptor
