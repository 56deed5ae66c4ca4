"""Run before a child's own program: ties the child's life to its parent's, gives up root, then becomes that program.

Started by `processes.start_child` as a plain script, with the standard library only (about 15 ms), because what it
does must happen in the child and `preexec_fn` is not safe in a process that has threads.

    child_exec.py PARENT_PID DEATH_SIGNAL UID GID -- PROGRAM [ARGUMENT...]      (UID and GID -1: stay who we are)
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent_pid: int, death_signal: int) -> None:
    """Have the kernel send death_signal when the parent ends, however it ends. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
    if os.getppid() != parent_pid:  # it ended between our fork and the line above
        sys.exit("the parent process is gone")


def become(uid: int, gid: int) -> None:
    """Change to an unprivileged user for good."""
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def main(arguments: list[str]) -> None:
    """Do what the arguments say (see above) and become the program. Does not return."""
    parent_pid, death_signal, uid, gid = (int(text) for text in arguments[:4])
    program = arguments[5:]
    if uid >= 0:
        become(uid, gid)
    die_with_parent(parent_pid, death_signal)  # after the change of user, which clears it
    os.execv(program[0], program)  # noqa: S606 - becoming the program is the purpose


if __name__ == "__main__":
    main(sys.argv[1:])
