"""How verbs ask Macs what they are doing: `ds4agent observe` over ssh, on many Macs at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ds4agent.observe import document
from ds4fleet.components import agent
from ds4fleet.errors import EXIT_FAILED, EXIT_UNREACHABLE
from ds4fleet.inventory.fleet import Host
from ds4fleet.remote import ssh

#: What our script ends with where the Mac lacks the Command Line Tools' Python, or ds4agent; and what a
#: ds4agent ends with that has no such program (EX_USAGE).
NO_PYTHON, NO_AGENT, NO_PROGRAM = 91, 92, 64
#: `set up`: an engine is or was there, so there was a ds4-fleet that made it.
_SCRIPT = """\
made=bare; [ -d {engine} ] && made='set up'
[ -x {python} ] || {{ echo "$made"; exit {no_python}; }}
[ -r {program} ] || {{ echo "$made"; exit {no_agent}; }}
exec {command} </dev/null
"""


@dataclass(frozen=True)
class Answer:
    """What a Mac said. document: None where it could not be asked; then `sentence` says why, without the
    Mac's name. bare: nothing of ours is on it, which is why there is nothing to say.
    """

    host: Host
    document: document.Document | None
    sentence: str = ""
    reached: bool = True
    bare: bool = False

    @property
    def failed(self) -> bool:
        """Whether it is not known what is on the Mac."""
        return self.document is None and not self.bare


def ask(hosts: Sequence[Host], *parts: str) -> list[Answer]:
    """Asks the Macs for these parts; the answers stand in the order of the hosts."""
    results = ssh.run_all(hosts, lambda host: script(host, parts))
    return [answer(host, result) for host, result in zip(hosts, results, strict=True)]


def exit_code(answers: Sequence[Answer]) -> int:
    """0 where all is known, EXIT_UNREACHABLE where a Mac did not answer, else EXIT_FAILED."""
    if any(not one.reached for one in answers):
        return EXIT_UNREACHABLE
    return EXIT_FAILED if any(one.failed for one in answers) else 0


def script(host: Host, parts: Sequence[str]) -> str:
    """What the /bin/sh of the Mac runs."""
    root, port = host.root, str(host.settings["ds4_port"])
    words = [word for part in parts for word in ("--part", part)]
    command = agent.argv(root, "observe", "--root", root, "--port", port, *words)
    return _SCRIPT.format(
        engine=shlex.quote(f"{root}/engine"),
        python=shlex.quote(agent.PYTHON),
        program=shlex.quote(agent.path(root)),
        no_python=NO_PYTHON,
        no_agent=NO_AGENT,
        command=shlex.join(command),
    )


def answer(host: Host, result: ssh.Result) -> Answer:
    """What a Mac's result comes to."""
    if result.ok:
        try:
            return Answer(host, document.parse(result.output))
        except document.SchemaError as error:
            return Answer(host, None, f"its ds4agent's answer {error}; {_converge(host)}")
    if result.kind is not ssh.Kind.FAILED:
        return Answer(host, None, result.sentence, reached=False)
    bare = result.output.strip() == "bare"
    if result.status == NO_PYTHON:
        advice = f"run `ansible-playbook playbooks/bootstrap.yml -l {host.name}`"
        return Answer(host, None, f"it has no Command Line Tools; {advice}", bare=bare)
    if result.status == NO_AGENT:
        return Answer(host, None, f"it has no ds4agent that can be asked; {_converge(host)}", bare=bare)
    if result.status == NO_PROGRAM:
        return Answer(host, None, f"its ds4agent is of an earlier release; {_converge(host)}")
    return Answer(host, None, result.sentence)


def _converge(host: Host) -> str:
    return f"run `ansible-playbook site.yml -l {host.name}` once"
