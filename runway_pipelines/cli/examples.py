"""The examples at the end of each command's ``--help``; a test parses every one of them."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """An epilog. A line may go on after a backslash, have a comment, and hand its output to another program."""
    # \b: click leaves the paragraph's lines as they are.
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
