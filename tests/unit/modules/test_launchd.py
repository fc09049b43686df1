"""launchd jobs: decided from what `print` says, done by polling, explained when launchd refuses."""

import plistlib
from pathlib import Path

import pytest

from ds4agent.mac import launchd as mac_launchd
from ds4agent.mac.run import Result

RUNNING = "system/com.example.job = {\n\tstate = running\n\tpid = 41\n\texit timeout = 7\n}\n"
WAITING = "system/com.example.job = {\n\tstate = spawn scheduled\n\tlast exit code = 78: EX_CONFIG\n}\n"


class FakeLaunchd:
    """Answers launchctl as recorded: bootout takes `slow` polls, bootstrap fails as scripted."""

    def __init__(self) -> None:
        self.loaded = False
        self.running = False
        self.slow = 0
        self.bootstrap_errors: list[int] = []
        self.disabled: set[str] = set()
        self.calls: list[str] = []
        self.leaving = 0

    def run(self, tool: str, *arguments: str) -> Result:
        argv = [tool, *arguments]
        if tool == "plutil":
            return Result(argv, 0, "OK", "")
        verb = arguments[0]
        if verb not in ("print", "print-disabled"):
            self.calls.append(verb)
        return getattr(self, "_" + verb.replace("-", "_"))(argv)

    def _print(self, argv: list[str]) -> Result:
        if self.leaving:
            self.leaving -= 1
            self.loaded = self.leaving > 0
        if not self.loaded:
            return Result(argv, 113, "", "Bad request.\nCould not find service")
        return Result(argv, 0, RUNNING if self.running else WAITING, "")

    def _print_disabled(self, argv: list[str]) -> Result:
        rows = "".join(f'\t\t"{label}" => disabled\n' for label in self.disabled)
        return Result(argv, 0, "\tdisabled services = {\n" + rows + "\t}\n", "")

    def _enable(self, argv: list[str]) -> Result:
        self.disabled.clear()
        return Result(argv, 0, "", "")

    def _bootout(self, argv: list[str]) -> Result:
        self.leaving, self.running = self.slow + 1, False
        return Result(argv, 36 if self.slow else 0, "", "")

    def _bootstrap(self, argv: list[str]) -> Result:
        if self.bootstrap_errors:
            number = self.bootstrap_errors.pop(0)
            return Result(argv, number, "", f"Bootstrap failed: {number}: some words")
        self.loaded = True
        return Result(argv, 0, "", "")

    def _kickstart(self, argv: list[str]) -> Result:
        self.running = True
        return Result(argv, 0, "", "")


def poll(ready, timeout_s, every_s=0.0):
    """As mac.run.poll, with a clock that each try advances."""
    for _try in range(max(1, int(timeout_s / every_s))):
        value = ready()
        if value:
            return value
    return value


@pytest.fixture
def fake() -> FakeLaunchd:
    return FakeLaunchd()


@pytest.fixture
def launchd(fake: FakeLaunchd) -> mac_launchd.Launchd:
    return mac_launchd.Launchd(10, run=fake.run, poll=poll)


@pytest.fixture
def job(tmp_path: Path) -> dict:
    plist = tmp_path / "com.example.job.plist"
    plist.write_bytes(plistlib.dumps({"Label": "com.example.job", "ProgramArguments": ["/bin/ls"]}))
    return {"label": "com.example.job", "plist": str(plist), "state": "started"}


def bring(launchd: mac_launchd.Launchd, job: dict, restart: bool = False) -> list[str]:
    steps = launchd.steps(job, launchd.look(job["label"]), restart)
    for step in steps:
        launchd.do(step, job)
    return steps


def test_a_job_that_runs_is_left_alone(fake, launchd, job):
    fake.loaded = fake.running = True
    assert bring(launchd, job) == []
    assert fake.calls == []


def test_a_missing_job_is_loaded_and_started(fake, launchd, job):
    assert bring(launchd, job) == ["bootstrap", "start"]
    assert fake.calls == ["bootstrap", "kickstart"]


def test_a_job_that_runs_once_is_only_loaded(fake, launchd, job):
    assert bring(launchd, {**job, "state": "loaded"}) == ["bootstrap"]
    assert bring(launchd, {**job, "state": "loaded"}) == []


def test_a_restart_waits_until_the_old_instance_is_gone(fake, launchd, job):
    fake.loaded = fake.running = True
    fake.slow = 5
    assert bring(launchd, job, restart=True) == ["bootout", "bootstrap", "start"]
    assert fake.calls == ["bootout", "bootstrap", "kickstart"]


def test_an_instance_that_never_goes_is_an_error_with_the_time_it_had(fake, launchd, job):
    fake.loaded = fake.running = True
    fake.slow = 10_000
    with pytest.raises(mac_launchd.JobError, match="still there 27 s after"):
        bring(launchd, job, restart=True)


@pytest.mark.parametrize("errors", [[5, 37, 5], [119]])
def test_passing_errors_of_bootstrap_are_retried(fake, launchd, job, errors):
    fake.bootstrap_errors = list(errors)
    bring(launchd, job)
    assert fake.loaded and fake.running


@pytest.mark.parametrize(("number", "why"), [(125, "125: some words"), (161, "Login Items")])
def test_lasting_errors_of_bootstrap_are_said_at_once(fake, launchd, job, number, why):
    fake.bootstrap_errors = [number] * 50
    with pytest.raises(mac_launchd.JobError, match=why):
        bring(launchd, job)
    assert fake.calls == ["bootstrap"]


def test_bootstrap_gives_up_at_its_deadline(fake, launchd, job):
    fake.bootstrap_errors = [5] * 1000
    with pytest.raises(mac_launchd.JobError, match="not loaded within 10 s"):
        bring(launchd, job)


def test_a_disabled_job_is_enabled_first(fake, launchd, job):
    fake.disabled = {"com.example.job"}
    assert bring(launchd, job) == ["enable", "bootstrap", "start"]


def test_a_job_between_two_crashes_is_started(fake, launchd, job):
    fake.loaded = True
    assert bring(launchd, job) == ["start"]


def test_an_absent_job_is_stopped_and_stays_away(fake, launchd, job):
    fake.loaded = fake.running = True
    gone = {**job, "state": "absent"}
    assert bring(launchd, gone) == ["bootout"]
    assert bring(launchd, gone) == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"no plist", "cannot be read"),
        (plistlib.dumps({"Label": "other"}), "is for label other"),
        (
            plistlib.dumps({"Label": "com.example.job", "UserName": "_nobody_here"}),
            "_nobody_here does not exist",
        ),
    ],
)
def test_a_plist_that_launchd_would_refuse_is_explained_before(launchd, job, content, why):
    Path(job["plist"]).write_bytes(content)
    with pytest.raises(mac_launchd.JobError, match=why):
        bring(launchd, job)
