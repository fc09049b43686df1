"""The one kind of error that an operator can cause, and the exit codes that scripts can tell apart."""

from __future__ import annotations

#: The work was tried and failed.
EXIT_FAILED = 1
#: The command line or the inventory says something that is invalid.
EXIT_USAGE = 2
#: The plan refuses: nothing was changed.
EXIT_REFUSED = 3
#: A Mac did not answer (the code that Ansible uses for unreachable hosts too).
EXIT_UNREACHABLE = 4
#: This machine lacks something (a package, a right) that the command needs.
EXIT_MISSING = 5


class OperatorError(Exception):
    """Something the operator can mend, said in one sentence: what is wrong, where, and what to do.

    The command line prints the sentence without a traceback and exits with `exit_code`;
    `detail` (a command's output, say) is shown below it only when asked for with -v.
    """

    def __init__(self, sentence: str, *, exit_code: int = EXIT_FAILED, detail: str = "") -> None:
        super().__init__(sentence)
        self.sentence = sentence
        self.exit_code = exit_code
        self.detail = detail
