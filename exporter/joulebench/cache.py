"""The folder for files that were downloaded and may be deleted: ``~/.cache/joulebench``, or below ``XDG_CACHE_HOME``.

Programs are started from there. So a folder is used only while no other local user can write to it, or to any folder above it:
whoever can rename a folder above a program can put another program in its place.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from joulebench.errors import UserError


def cache_path(name: str) -> Path:
    """The path of the cache folder ``name``, which need not exist."""
    from platformdirs import user_cache_path

    return user_cache_path("joulebench", appauthor=False) / name


def private_folder(path: Path) -> Path:
    """Create ``path`` (mode 700) where it is missing and return it resolved. Raises UserError where another local user could
    change what lies in it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = path.resolve(strict=True)
    except OSError as error:
        raise UserError(f"{path} cannot be created ({error.strerror}); set XDG_CACHE_HOME to a folder of your own") from error
    reason = why_not_private(path)
    if reason is not None:
        raise UserError(f"{reason}; remove that permission, or set XDG_CACHE_HOME to a folder of your own")
    return path


def why_not_private(path: Path) -> str | None:
    """Return why another local user could change what lies in the existing folder ``path``, None where nobody but root can.

    ``path`` must be resolved. The folder itself has to belong to this user. A folder above it may belong to root as well, and
    may be writable for all where it has the sticky bit, as ``/tmp`` has.
    """
    for folder in (path, *path.parents):
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode):
            return f"{folder} is not a folder"
        owners = {os.geteuid()} if folder == path else {os.geteuid(), 0}
        if status.st_uid not in owners:
            return f"{folder} belongs to another user"
        sticky = bool(status.st_mode & stat.S_ISVTX) and folder != path
        if status.st_mode & stat.S_IWOTH and not sticky:
            return f"every user may write to {folder}"
        if status.st_mode & stat.S_IWGRP and not sticky and not _is_own_group(status.st_gid):
            return f"the members of a group may write to {folder}"
    return None


def _is_own_group(group_id: int) -> bool:
    """Whether the group is root's, or the private group that many systems create for each user, with no other member."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(group_id)
    except KeyError:
        return False
    return group_id == 0 or (group_id == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of ``folder``, so that two processes do not download the same file."""
    import fcntl

    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
