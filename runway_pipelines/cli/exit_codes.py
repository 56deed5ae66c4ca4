"""What a command's exit code says: one scheme for all commands, as ``--help`` and docs/operations.md have it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """How a command ended, and what that means in words."""

    DONE = 0, "done; from a command that examines something: all is well"
    REFUSED = 1, "not done, or not completely: the message says why, and what to do"
    USAGE = 2, "called wrongly: the message says what was expected"
    NOT_WELL = 3, "done, and what was examined is not well: the output says what is wrong"
    INTERRUPTED = 130, "stopped by Ctrl-C; what runs until Ctrl-C ends with 0"
    TERMINATED = 143, "stopped by SIGTERM"

    meaning: str

    def __new__(cls, code: int, meaning: str) -> ExitCode:
        """A member that is its number."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    @classmethod
    def of(cls, *, is_well: bool) -> ExitCode:
        """The exit code of a command that examined something."""
        return cls.DONE if is_well else cls.NOT_WELL


def exit_codes_in_words() -> str:
    """The table for ``--help``."""
    # \b: click leaves the paragraph's lines as they are.
    return "\n".join(["\b", "Exit codes:", *(f"  {code:>3}  {code.meaning}" for code in ExitCode)])
