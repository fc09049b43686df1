"""The one way to run something on a Mac without Ansible: OpenSSH, within a time and a number of bytes.

What comes back is a value with a kind. A failure has a sentence and no output, so no caller takes half an
answer for a whole one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

from ds4agent.border import plain
from ds4agent.mac import output
from ds4agent.tunnel import endings, local_network
from ds4fleet.errors import EXIT_MISSING, OperatorError
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import ways

#: A cold login over an ocean takes 8 to 9 round trips; beyond this a Mac counts as silent.
CONNECT_TIMEOUT_S = 20
#: A whole answer is there by then, or the Mac is silent too.
ANSWER_TIMEOUT_S = 3 * CONNECT_TIMEOUT_S
#: An answer has some KiB.
ANSWER_BYTES = 4 * 1024 * 1024
#: What ssh ends with when it is ssh itself that failed (ssh(1)).
SSH_FAILED = 255
_AT_ONCE = 32
#: What stands before an answer: the start files of a login shell may print, too.
_ANSWER = "==> ds4-fleet: the answer"


class Kind(StrEnum):
    """How a command on a Mac ended."""

    OK = "ok"
    #: It ran, and ended with another status than 0.
    FAILED = "failed"
    UNREACHABLE = "unreachable"
    HOST_KEY = "host key refused"
    LOGIN = "login refused"
    TIMEOUT = "timeout"
    TOO_MUCH = "too much output"


#: It did not come to the command on the Mac, or not to its end.
SILENT = frozenset({Kind.UNREACHABLE, Kind.HOST_KEY, Kind.LOGIN, Kind.TIMEOUT, Kind.TOO_MUCH})


@dataclass(frozen=True)
class Result:
    """What a command on a Mac came to.

    output: of one that ended by itself, also with another status than 0; else "". status: of the command,
    None where it did not come to that. sentence: what happened, without the Mac's name; "" only for OK.
    """

    kind: Kind
    output: str = ""
    status: int | None = None
    sentence: str = ""

    @property
    def ok(self) -> bool:
        """Whether it ended with status 0."""
        return self.kind is Kind.OK


def argv(host: Host, *words: str) -> list[str]:
    """The command line of ssh to the administrator's account; words: more options, before the address."""
    way = host.reached
    wait_s = max(way.timeout_s, CONNECT_TIMEOUT_S)
    # ssh takes the first value of an option: ours come before what the inventory gives. A master of its own
    # would keep this process's pipes; one of another Mac at the same address would lead there.
    own = ["BatchMode=yes", f"ConnectTimeout={wait_s}", "ControlMaster=no"]
    if not any("ControlPath" in word for word in (*way.ssh_args, *way.more_args)):
        own.append("ControlPath=none")
    options = [word for option in own for word in ("-o", option)]
    return [way.executable, *host.ssh_options(), *options, *way.reaching(), *words, way.address]


def run(host: Host, script: str, *, most_bytes: int = ANSWER_BYTES, timeout_s: float | None = None) -> Result:
    """Runs a script under the /bin/sh of one Mac, within ANSWER_TIMEOUT_S unless told otherwise.

    Raises OperatorError where this machine has no ssh.
    """
    command = [*argv(host), "/bin/sh -s"]
    try:
        ended = output.run(command, timeout_s or ANSWER_TIMEOUT_S, stdin=asked(script), max_bytes=most_bytes)
    except OSError as error:
        raise OperatorError(f"ssh cannot be run: {error.strerror}", exit_code=EXIT_MISSING) from None
    ended.stdout = answered(ended.stdout)
    return judge(host.name, ended, most_bytes, host, timeout_s)


def asked(script: str) -> str:
    """The script that marks where its own answer begins."""
    return f"echo '{_ANSWER}'\n{script}"


def answered(said: str) -> str:
    """What a script of `asked` printed, without what the login shell said before it."""
    before, mark, answer = said.partition(f"{_ANSWER}\n")
    return answer if mark else before


def run_all(hosts: Sequence[Host], script: Callable[[Host], str]) -> list[Result]:
    """The same on many Macs at once; the results stand in the order of the hosts."""
    with ThreadPoolExecutor(max(1, min(len(hosts), _AT_ONCE))) as pool:
        return list(pool.map(lambda host: run(host, script(host)), hosts))


def judge(
    name: str, ended: output.Ended, most_bytes: int, host: Host | None = None, timeout_s: float | None = None
) -> Result:
    """The result of an ssh to the Mac `name` that has ended; host: to name its account and bastion."""
    if ended.cut == output.LATE:
        return Result(Kind.TIMEOUT, sentence=f"no whole answer within {timeout_s or ANSWER_TIMEOUT_S:g} s")
    if ended.cut:
        return Result(Kind.TOO_MUCH, sentence=f"it said more than {most_bytes:,} bytes")
    if ended.returncode == 0:
        return Result(Kind.OK, ended.stdout, 0)
    if ended.returncode < 0:
        return Result(Kind.TIMEOUT, sentence=f"ssh was ended by signal {-ended.returncode}")
    last = last_line(ended.stderr)
    if ended.returncode != SSH_FAILED:
        sentence = f"the command on it ended with status {ended.returncode}" + (f": {last}" if last else "")
        return Result(Kind.FAILED, ended.stdout, ended.returncode, sentence)
    told = _ending(host, ended.stderr)
    if told is not None:
        return told
    kind = refusal(ended.stderr) or Kind.UNREACHABLE
    privacy = local_network.hint(ended.stderr)
    last += f"; {privacy}" if privacy else ""
    if kind is Kind.HOST_KEY:
        last = (
            "no host key is recorded" if unknown_key(ended.stderr) else "ssh refuses its host key"
        ) + f"; run `ansible-playbook playbooks/bootstrap.yml -l {name}`, which shows what it is"
    return Result(kind, sentence=last or "ssh ended without a word")


#: The endings that are said by the table; of the others ssh's own last words are as clear.
_TOLD = {
    "bastion": Kind.UNREACHABLE,
    "algorithm": Kind.UNREACHABLE,
    "banner": Kind.UNREACHABLE,
    "keys": Kind.LOGIN,
    "account": Kind.LOGIN,
    "certificate": Kind.HOST_KEY,
}


def _ending(host: Host | None, said: str) -> Result | None:
    known = endings.meaning(said)
    if known is None or known[0].kind not in _TOLD or host is None:
        return None
    one, found = known
    way = host.reached
    via = ways.effective(host) if one.kind == "bastion" else None
    sentence = one.text.format(
        via=(via.via if via else "") or "on the way",
        address=way.address,
        ssh_port=via.port if via else host.port,
        user=way.user or "of ssh's own choice",
        found=found,
    )
    return Result(_TOLD[one.kind], sentence=plain.line(sentence))


def refusal(said: str) -> Kind | None:
    """HOST_KEY or LOGIN where that is what OpenSSH says on its standard error; None for anything else."""
    if "IDENTIFICATION HAS CHANGED" in said or "Host key verification failed" in said or unknown_key(said):
        return Kind.HOST_KEY
    return Kind.LOGIN if "Permission denied" in said else None


def unknown_key(said: str) -> bool:
    """Whether OpenSSH says that it knows no key of the Mac."""
    return "host key is known for" in said


def last_line(said: str) -> str:
    """The last thing that ssh said, "" when it said nothing."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1].removeprefix("ssh: ") if lines else ""


def execute(words: Sequence[str], timeout_s: float, most_bytes: int) -> output.Ended:
    """Runs a program of OpenSSH's with this command line, in a session of its own: when its time is over or
    its bytes are too many, its proxies end with it."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    whole = False
    try:
        ended: output.Ended = output.finish(process, time.monotonic() + timeout_s, max_bytes=most_bytes)
        whole = not ended.cut
        return ended
    finally:
        if not whole:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
