"""Core files: the memory of a process, which the kernel writes to disk when the process crashes."""

from __future__ import annotations

import resource


def forbid_core_files() -> None:
    """Let this process, and those that it starts, leave no core file: the memory holds students' names.

    Where the machine's ``core_pattern`` is a pipe, the program behind it gets the memory all the same: that is the
    machine's setting.
    """
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, most))
