"""The one kind of error that a user of the lab can cause, and its exit codes."""

from __future__ import annotations

#: The work was tried and failed.
EXIT_FAILED = 1
#: The command line or the description of a Mac is invalid.
EXIT_USAGE = 2
#: This machine lacks something (a package, a right) that the lab needs.
EXIT_MISSING = 5


class LabError(Exception):
    """Something that the user of the lab can correct, in one sentence: what is wrong, where, what to do.

    A command line prints `sentence` without a traceback and exits with `exit_code`; `detail` (a command's
    output, say) is for -v.
    """

    def __init__(self, sentence: str, *, exit_code: int = EXIT_FAILED, detail: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code
        self.detail = detail
