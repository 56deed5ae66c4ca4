"""Core files: what the kernel writes of a process's memory when it crashes."""

from __future__ import annotations

import resource


def forbid_core_files() -> None:
    """Let this process, and those that it starts, leave no core file: the memory holds students' names.

    Where the machine's ``core_pattern`` is a pipe, its program gets the memory all the same: that is the machine's
    setting.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
