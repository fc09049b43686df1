"""launchctl replays its recordings: a launchd in the recorded state, then text, stream and exit status."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest

from maclab.commands import launchctl
from maclab.machine import launchd, launchd_numbers
from maclab.machine.job_spec import parse_job
from maclab.machine.launchd import Job
from maclab.machine.model import Mac
from maclab.pid1.jobs import job_data
from tests.unit.maclab.fake import RECORDINGS, FakeContext, Result, Terminal, bare, recording

FOLDER = RECORDINGS / "launchctl"


class Launchctl(FakeContext):
    """A caller whose launchd has the given jobs and answers every change with `error`."""

    jobs: list[dict[str, Any]]
    error: int

    def call(self, op: str, **arguments: Any) -> dict[str, Any]:
        if op == "jobs":
            label = arguments.get("label")
            return {"jobs": [job for job in self.jobs if label in (None, job["label"])]}
        return {"error": self.error, "pid": 4711}


def run(
    folder: Path,
    *words: str,
    jobs: list[dict[str, Any]] | None = None,
    error: int = 0,
    uid: int = 0,
    mac: Mac | None = None,
    tty: bool = False,
) -> Result:
    mac = mac or bare()
    mac.save(folder / "mac.json")
    out, err = Terminal() if tty else io.StringIO(), io.StringIO()
    ctx = Launchctl(argv=["launchctl", *words], uid=uid, stdout=out, stderr=err, folder=folder)
    ctx.jobs, ctx.error, ctx.calls = jobs or [], error, []
    return Result(launchctl.main(ctx), out.getvalue(), err.getvalue(), mac)


def job(plist: dict[str, Any], **standing: Any) -> dict[str, Any]:
    made = Job(parse_job(plist, f"/Library/LaunchDaemons/{plist['Label']}.plist"))
    for name, value in standing.items():
        setattr(made, name, value)
    return job_data(made)


def listed(pid: str, status: str, label: str) -> dict[str, Any]:
    """A job as a line of `launchctl list` or of `launchctl print system` tells it."""
    number = int(status) if status != "-" else None
    ended = None if number is None else -number if number < 0 else number << 8
    return job(
        {"Label": label, "Program": "/bin/x"}, pid=int(pid.replace("-", "0")), last_status=ended, runs=1
    )


def test_list_prints_the_recorded_table(tmp_path: Path) -> None:
    text = recording("launchctl/list__columns_old_macos.txt")
    rows = [line.split("\t") for line in text.splitlines()[1:]]
    result = run(tmp_path, "list", jobs=[listed(*row) for row in rows])
    assert (result.out, result.err, result.status) == (text, "", 0)


def test_list_of_a_label_prints_the_recorded_dictionary(tmp_path: Path) -> None:
    # The recorded job is an agent of a session; the simulated domain is the system's.
    wanted = recording("launchctl/list_label__agent_running.txt").replace('"Aqua"', '"System"')
    plist = {
        "Label": "com.byliu.egress-guard",
        "ProgramArguments": ["/opt/homebrew/bin/egress-guard", "start", "--port=8443"],
        "KeepAlive": True,
    }
    result = run(tmp_path, "list", plist["Label"], jobs=[job(plist, pid=12345)])
    assert (result.out, result.err, result.status) == (wanted, "", 0)


def test_print_of_the_domain_is_the_recording_as_far_as_it_is_simulated(tmp_path: Path) -> None:
    wanted = recording("launchctl/print_system_domain_trimmed.txt")
    for block in ("unmanaged processes", "endpoints", "task-special ports"):
        wanted = re.sub(rf"(?ms)^\t{block} = \{{$.*?^\t\}}\n\n", "", wanted)
    # How much runs is the Mac's own affair, and so are numbers of ports and times.
    counts = {"active count": 1, "service count": 3, "active service count": 1}
    for name, number in counts.items():
        wanted = re.sub(rf"(?m)^\t{name} = \d+$", f"\t{name} = {number}", wanted)
    wanted = wanted.replace("\t\tpid/39576\n", "")
    mac = bare()
    mac.launchd_disabled = dict.fromkeys(re.findall(r'"(\S+)" => disabled', wanted), True)
    rows = re.findall(r"(?m)^\t\t\t +(\d+) +(-) +(\S+)$", wanted)
    result = run(tmp_path, "print", "system", jobs=[listed(*row) for row in rows], mac=mac)
    assert result.out == wanted
    assert result.status == 0


class TestMissing:
    TEXT = (FOLDER / "print_missing_service.txt").read_text()

    def test_a_service(self, tmp_path: Path) -> None:
        result = run(tmp_path, "print", "system/nosuch")
        assert (result.out, result.status) == ("", 113)
        assert self.TEXT.splitlines()[1:3] == result.err.splitlines()

    def test_a_service_of_a_session(self, tmp_path: Path) -> None:
        result = run(tmp_path, "print", "gui/501/nosuch")
        assert (result.out, result.status) == ("", 113)
        assert result.err in self.TEXT

    def test_a_domain(self, tmp_path: Path) -> None:
        result = run(tmp_path, "print", "gui/501")
        assert (result.out, result.status) == ("", 112)
        start = self.TEXT.splitlines()[-1].removesuffix("...")
        assert result.err.splitlines()[0] == "Bad request."
        assert result.err.splitlines()[1].startswith(start)


class TestErrors:
    TEXT = (FOLDER / "COMPOSED_error_messages.txt").read_text()
    LINES = [line.split("   #")[0].rstrip() for line in TEXT.partition("# launchctl error")[0].splitlines()]

    def test_the_table_is_the_recorded_one(self) -> None:
        table = self.TEXT.partition("# launchctl error N strings\n")[2]
        recorded = dict(re.findall(r"(?:^|; |\n)(\d+) ([^;\n]+)", table))
        assert {str(number): text for number, text in launchctl.ERRORS.items()} == recorded

    @pytest.mark.parametrize(
        ("words", "error", "status"),
        [
            (("bootstrap", "system", "/x.plist"), launchd.EIO, 5),
            (("bootstrap", "system", "/x.plist"), 37, 37),
            (("bootstrap", "system", "/x.plist"), launchd_numbers.DISABLED, 119),
            (("bootstrap", "gui/501", "/x.plist"), 0, 125),
            (("bootout", "system/x"), launchd_numbers.ESRCH, 3),
            (("bootout", "system/x"), launchd.EIO, 5),
            (("bootout", "system/x"), launchd_numbers.EINPROGRESS, 36),
            (("kickstart", "system/nosuch"), 0, 113),
            (("kill", "TERM", "system/nosuch"), 0, 113),
            (("blame", "system/nosuch"), 0, 113),
            (("load", "/x.plist"), launchd.EIO, 0),
            (("unload", "/x.plist"), launchd.EIO, 0),
        ],
    )
    def test_a_failure_says_a_recorded_line_on_stderr(
        self, tmp_path: Path, words: tuple[str, ...], error: int, status: int
    ) -> None:
        result = run(tmp_path, *words, error=error)
        assert (result.out, result.status) == ("", status)
        recorded = {line.replace('"x"', '"nosuch"') for line in self.LINES}
        assert set(result.err.splitlines()) <= recorded

    def test_every_recorded_line_is_said_by_something(self, tmp_path: Path) -> None:
        path = "/Library/LaunchDaemons/x.plist"
        x = job({"Label": "x", "Program": "/bin/x"})
        said = [
            run(tmp_path, "bootstrap", "system", path, uid=501),
            run(tmp_path, "bootstrap", "gui/501", path),
            run(tmp_path, "bootout", "system/x", uid=501),
            run(tmp_path, "print", "system/x"),
            run(tmp_path, "kickstart", "system/x", jobs=[x], error=launchd_numbers.EPERM),
            run(tmp_path, "kickstart", "-p", "system/x", jobs=[x], tty=True),
            run(tmp_path, "load", path, error=launchd.EIO),
            run(tmp_path, "unload", path, error=launchd.EIO),
        ]
        for number in (37, launchd_numbers.DISABLED, launchd_numbers.BAD_PATH):
            said.append(run(tmp_path, "bootstrap", "system", path, error=number))
        for number in (launchd_numbers.ESRCH, launchd.EIO, launchd_numbers.EINPROGRESS):
            said.append(run(tmp_path, "bootout", "system/x", error=number))
        printed = {line for one in said for line in f"{one.out}\n{one.err}".splitlines()}
        assert [line for line in self.LINES if line and line[0] != "#" and line not in printed] == []

    def test_bad_ownership_is_named_with_the_path_and_hidden_behind_5(self, tmp_path: Path) -> None:
        path = "/Library/LaunchDaemons/x.plist"
        result = run(tmp_path, "bootstrap", "system", path, error=launchd_numbers.BAD_PATH)
        assert result.status == 5
        assert set(result.err.splitlines()) <= set(self.LINES)
        assert len(result.err.splitlines()) == 2

    def test_without_root_the_hint_is_added(self, tmp_path: Path) -> None:
        result = run(tmp_path, "bootstrap", "system", "/x.plist", uid=501)
        assert result.status == 5
        assert set(result.err.splitlines()) <= set(self.LINES)

    def test_bootout_without_root(self, tmp_path: Path) -> None:
        result = run(tmp_path, "bootout", "system/x", uid=501)
        assert result.status == 1
        assert result.err.rstrip() in self.LINES


def test_print_disabled_is_the_recording(tmp_path: Path) -> None:
    wanted = (FOLDER / "print_disabled__macOS26.6.txt").read_text()
    mac = bare()
    mac.launchd_disabled = {
        label: state == "disabled" for label, state in re.findall(r'"(\S+)" => (\w+)', wanted)
    }
    result = run(tmp_path, "print-disabled", "system", mac=mac)
    assert (result.out, result.err, result.status) == (wanted, "", 0)


#: How a job stands behind each fragment of print_fragments_exit_states__macOS26.6.txt, by its comment.
STANDINGS: dict[str, dict[str, Any]] = {
    "killed by kill -9": {"last_status": 9, "runs": 1},
    "terminated by SIGTERM": {"last_status": 15, "runs": 1},
    "crash loop": {"state": "spawn scheduled", "last_status": 1 << 8, "runs": 1},
    "healthy": {"state": "running", "pid": 123, "runs": 1},
    "running again": {
        "state": "running",
        "pid": 5474,
        "runs": 2,
        "reason": "speculative",
        "last_status": 255 << 8,
    },
    "exec / log path failure": {"last_status": 78 << 8, "runs": 1},
}


@pytest.mark.parametrize("start", STANDINGS)
def test_print_has_the_recorded_lines_of_each_end(tmp_path: Path, start: str) -> None:
    text = (FOLDER / "print_fragments_exit_states__macOS26.6.txt").read_text()
    fragments = {
        head: [line for line in body.splitlines() if line]
        for head, body in re.findall(r"(?m)^# (.*)\n((?:\t.*\n?)+)", text)
    }
    (wanted,) = [lines for head, lines in fragments.items() if head.startswith(start)]
    one = job({"Label": "x", "Program": "/bin/x"}, **STANDINGS[start])
    result = run(tmp_path, "print", "system/x", jobs=[one])
    printed = iter(result.out.splitlines())
    # The state of a dead job's coalition is shown by launchd for a moment only.
    missing = [line for line in wanted if line != "\t\tstate = active" and line not in printed]
    assert missing == []
    assert len(fragments) == len(STANDINGS)


class TestDomains:
    """Over ssh, with nobody at the screen (reference 2.8)."""

    @pytest.mark.parametrize(
        ("words", "status", "start"),
        [
            (("print", "gui/501"), 112, "Bad request.\nCould not find domain for user gui: 501"),
            (
                ("print", "gui/501/x"),
                113,
                'Bad request.\nCould not find service "x" in domain for user gui: 501',
            ),
            (("bootstrap", "gui/501", "/x.plist"), 125, "Bootstrap failed: 125: Domain does not support"),
            (("kickstart", "gui/501/x"), 113, 'Could not find service "x" in domain for user gui: 501'),
            (("print", "user/502"), 112, "Bad request.\nCould not find domain for user: 502"),
        ],
    )
    def test_one_that_is_not_there_is_said_not_to_be(
        self, tmp_path: Path, words: tuple[str, ...], status: int, start: str
    ) -> None:
        result = run(tmp_path, *words, uid=501)
        assert (result.out, result.status) == ("", status)
        assert result.err.startswith(start)

    @pytest.mark.parametrize(
        "words",
        [("print", "user/501"), ("bootstrap", "user/501", "/x.plist"), ("kickstart", "user/501/x")]
        + [("print", "user/0"), ("print-disabled", "user/501"), ("disable", "user/501/x")],
    )
    def test_that_of_a_session_is_refused_by_name(self, tmp_path: Path, words: tuple[str, ...]) -> None:
        result = run(tmp_path, *words, uid=501)
        assert result.status == 64
        assert f"{words[0]} {'/'.join(words[1].split('/')[:2])} is not simulated" in result.err
