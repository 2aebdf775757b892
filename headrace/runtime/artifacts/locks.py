"""Locks between processes: ``flock``, which the kernel releases when its holder dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """A lock that is held on a file until it is released; make one with ``try_lock``."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd: int | None = fd

    def touch(self) -> float:
        """Stamp the file with the file system's time, and return that, in seconds since 1970."""
        assert self._fd is not None, "the lock was released"
        os.utime(self._fd)
        return os.fstat(self._fd).st_mtime

    def delete(self) -> None:
        """Remove the file. Hold it exclusively: others may be about to lock it."""
        self.path.unlink(missing_ok=True)

    def release(self) -> None:
        """Let go; doing so twice changes nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __del__(self) -> None:
        # Taken in a thread for someone who was cancelled meanwhile, it reaches nobody.
        self.release()


def try_lock(path: Path, *, shared: bool = False, create: bool = True) -> FileLock | None:
    """Return the lock on ``path``, or None if someone holds it against us, without waiting.

    Args:
        path: The file; its folder must exist.
        shared: Others may hold it shared as well.
        create: Whether to make the file; otherwise None if there is none.

    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    while True:
        try:
            fd = os.open(path, flags, 0o666)
        except FileNotFoundError:
            if create:
                raise
            return None
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _still_there(path, fd):
            return FileLock(path, fd)
        os.close(fd)  # its last holder removed it between our open and our lock


def _still_there(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(fd))
    except FileNotFoundError:
        return False
