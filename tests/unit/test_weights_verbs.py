"""What Macs answer about weights, as lines, files, findings and advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ds4agent.observe.document import Document, Progress, Weights, WeightsFile
from ds4fleet import console
from ds4fleet.errors import EXIT_FAILED, EXIT_REFUSED, EXIT_UNREACHABLE, OperatorError
from ds4fleet.inventory.fleet import Fleet, Host
from ds4fleet.plan.make import make_plan
from ds4fleet.remote import observe
from ds4fleet.weights import care, listing, prefetch, store
from tests.unit import plan_mac as mac

SAID = {
    "state": "fetching",
    "file": "w.gguf",
    "done_bytes": 5_000_000_000,
    "total_bytes": 10_000_000_000,
    "bytes_per_s": 10_000_000,
    "source": "tyo-01",
    "error": "",
    "reason": "",
    "updated_at_s": 1000,
}


def said(now_s: int = 1000, **changed: object) -> observe.Answer:
    """What a Mac says of its fetch."""
    progress = Progress.from_json({**SAID, **changed})
    return observe.Answer(Host("tyo-02", "tokyo", {}), Document(now_s=now_s, staging=progress))


class TestLines:
    def test_a_line_says_how_far_a_mac_is(self) -> None:
        line = prefetch.line_of(said(1003))
        assert (line.state, line.source, line.done_bytes) == ("fetching", "tyo-01", 5_000_000_000)

    def test_a_fetch_that_is_silent_has_stopped_one_that_is_done_has_not(self) -> None:
        assert prefetch.line_of(said(1100)).state == "stopped"
        assert prefetch.line_of(said(1100, state="done")).state == "done"

    def test_a_mac_without_an_order_and_one_that_is_silent_differ(self) -> None:
        host = Host("tyo-02", "tokyo", {})
        assert prefetch.line_of(observe.Answer(host, Document(1, staging=Progress()))).state == "-"
        assert prefetch.line_of(observe.Answer(host, None, "it has no ds4agent", bare=True)).state == "-"
        silent = prefetch.line_of(observe.Answer(host, None, "no route to host", reached=False))
        assert (silent.state, silent.note) == ("no answer", "no route to host")


class TestWatch:
    def watched(
        self, monkeypatch: pytest.MonkeyPatch, *looks: tuple[str, str]
    ) -> tuple[list[prefetch.Line], float]:
        """The last lines and the seconds until then, when two Macs say this at one look after another."""
        clock = iter(range(0, 100_000, prefetch.LOOK_S))
        now, said = [0.0], [*looks]

        def look(_hosts: object) -> list[prefetch.Line]:
            now[0] = next(clock)
            states = said.pop(0) if len(said) > 1 else said[0]
            return [prefetch.Line(name, state) for name, state in zip(("a", "b"), states, strict=True)]

        monkeypatch.setattr(prefetch, "look", look)
        monkeypatch.setattr(prefetch.time, "monotonic", lambda: now[0])
        monkeypatch.setattr(prefetch.time, "sleep", lambda _seconds: None)
        return prefetch.watch([]), now[0]

    def test_it_ends_when_all_have_ended_or_wait(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lines, passed_s = self.watched(monkeypatch, ("fetching", "fetching"), ("done", "paused"))
        assert [line.state for line in lines] == ["done", "paused"] and passed_s == prefetch.LOOK_S

    def test_a_mac_that_stays_silent_is_given_up_when_the_others_have_ended(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at_work = [("fetching", "no answer")] * 500
        lines, passed_s = self.watched(monkeypatch, *at_work, ("done", "no answer"))
        assert prefetch._exit_code(lines) == EXIT_UNREACHABLE
        assert 500 * prefetch.LOOK_S + prefetch.LOST_S <= passed_s <= 502 * prefetch.LOOK_S + prefetch.LOST_S


class TestList:
    def test_what_could_not_be_asked_is_said_and_told_apart_by_the_status(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        host = Host("tyo-02", "tokyo", {})
        monkeypatch.setattr(Fleet, "select", lambda **_: Fleet((host,), ("tokyo",)))
        files = Weights((WeightsFile("a.gguf", 100, "proven", used=("running",)),))
        answers = {
            0: observe.Answer(host, Document(1, weights=files)),
            EXIT_FAILED: observe.Answer(host, None, "its ds4agent is of an earlier release"),
            EXIT_UNREACHABLE: observe.Answer(host, None, "no route to host", reached=False),
        }
        for code, answer in answers.items():
            monkeypatch.setattr(observe, "ask", lambda *_, answer=answer: [answer])
            assert listing.listing() == code
            shown = capsys.readouterr()
            assert answer.sentence in shown.err and ("a.gguf" in shown.out) == (code == 0)


def finding(state: str, *used: str, name: str = "a.gguf") -> dict[str, object]:
    return {"name": name, "bytes": 5, "state": state, "why": "its sha256 is 12", "used": list(used)}


class Playbook:
    """Stands for playbooks/weights.yml: each run leaves what the Macs say. runs: the values given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, hosts: list[Host]) -> None:
        self.answers: dict[str, dict[str, object]] = {}
        self.runs: list[tuple[dict[str, object], tuple[str, ...]]] = []
        monkeypatch.setattr(care, "_run", self.run)
        monkeypatch.setattr(Fleet, "select", lambda **_: Fleet(tuple(hosts), ()))
        monkeypatch.setattr(care.upgrade, "latest", lambda _root: None)

    def says(self, host: str, *files: dict[str, object], **more: object) -> None:
        self.answers[host] = {"files": list(files), "held_by": "", "safe_mode": False, **more}

    def run(self, hosts: list[Host], values: dict[str, object], *arguments: str, **_: object) -> care.Report:
        import tempfile

        self.runs.append((values, arguments))
        with tempfile.TemporaryDirectory() as folder:
            for host in hosts:
                if host.name in self.answers:
                    (Path(folder) / f"{host.name}.json").write_text(json.dumps(self.answers[host.name]))
            return care.gather([host.name for host in hosts], Path(folder))


@pytest.fixture
def playbook(monkeypatch: pytest.MonkeyPatch) -> Playbook:
    return Playbook(monkeypatch, [Host("tyo-01", "tokyo", {}), Host("tyo-02", "tokyo", {})])


class TestVerify:
    def test_all_as_it_should_be_is_success(self, playbook: Playbook) -> None:
        for host in ("tyo-01", "tyo-02"):
            playbook.says(host, finding("proven", "served"))
        assert care.verify() == 0

    def test_a_served_file_that_is_wrong_is_told_loudly(
        self, playbook: Playbook, capsys: pytest.CaptureFixture[str]
    ) -> None:
        playbook.says("tyo-01", finding("wrong", "served"))
        playbook.says("tyo-02", finding("proven"))
        with console.out.capture() as said:
            assert care.verify() == EXIT_FAILED
        text = " ".join(said.get().split())
        assert (
            "tyo-01: a.gguf is not what it should be" in text and "BEING SERVED and was not touched" in text
        )
        assert "fab prefetch -l tyo-01" in text and "kickstart -k" in text

    def test_a_mac_that_is_silent_is_not_taken_for_a_proven_one(self, playbook: Playbook) -> None:
        playbook.says("tyo-01", finding("proven"))
        assert care.verify() == EXIT_UNREACHABLE

    def test_a_mac_whose_plan_refuses_is_told_with_the_reason(self, playbook: Playbook) -> None:
        playbook.says("tyo-01", finding("proven"))
        playbook.answers["tyo-02"] = {"msg": "tyo-02: what it needs is not known"}
        with console.out.capture() as said:
            assert care.verify() == EXIT_FAILED
        assert "tyo-02: what it needs is not known" in " ".join(said.get().split())

    def test_a_name_that_is_nowhere_is_an_error(self, playbook: Playbook) -> None:
        for host in ("tyo-01", "tyo-02"):
            playbook.says(host)
        with pytest.raises(OperatorError, match=r"b\.gguf is on none"):
            care.verify(file="b.gguf")

    def test_while_it_reads_each_mac_has_its_line(self) -> None:
        reads = Progress(file="a.gguf", done_bytes=25, total_bytes=100, bytes_per_s=2_000_000)
        answers = [
            observe.Answer(Host("tyo-01", "tokyo", {}), Document(1, verifying=reads)),
            observe.Answer(Host("tyo-02", "tokyo", {}), None, "no route to host", reached=False),
        ]
        with console.out.capture() as shown:
            console.out.print(care._progress(answers))
        assert "25.0 %" in shown.get() and "2 MB/s" in shown.get() and "tyo-02" in shown.get()


class TestPrune:
    def test_it_deletes_what_was_shown_and_agreed_to(self, playbook: Playbook) -> None:
        playbook.says("tyo-01", finding("free"), finding("kept", "served", name="b.gguf"))
        playbook.says("tyo-02", finding("kept", "served"))
        assert care.prune(yes=True) == 0
        (_, looked), (values, done) = playbook.runs
        assert looked == ("--check",) and done == ()
        assert values["__ds4_agreed"] == {"tyo-01": ["a.gguf"]}

    def test_safe_mode_lets_it_look_and_nothing_else(self, playbook: Playbook) -> None:
        playbook.says("tyo-01", finding("free"), safe_mode=True)
        playbook.says("tyo-02")
        with pytest.raises(OperatorError, match="ds4_safe_mode is true for tyo-01") as refused:
            care.prune(yes=True)
        assert refused.value.exit_code == EXIT_REFUSED and len(playbook.runs) == 1

    def test_without_a_yes_nothing_is_deleted(
        self, playbook: Playbook, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        playbook.says("tyo-01", finding("free"))
        playbook.says("tyo-02")
        monkeypatch.setattr(console, "confirm", lambda _question, yes: yes)
        assert care.prune() == 0 and len(playbook.runs) == 1
        assert care.prune(json_out=True) == 0 and len(playbook.runs) == 2

    def test_a_mac_that_a_rollout_holds_is_told(self, playbook: Playbook) -> None:
        playbook.says("tyo-01", finding("free"), held_by="rollout r1 of eva has this Mac since noon")
        playbook.says("tyo-02", finding("free"))
        assert care.prune(yes=True) == EXIT_FAILED
        assert playbook.runs[1][0]["__ds4_agreed"] == {"tyo-02": ["a.gguf"]}


def test_a_mac_is_held_against_the_catalogue_and_its_own_plan() -> None:
    hardware = {"form": "Mac Studio", "chip": "Apple M3 Ultra", "memory_gb": 512, "storage_gb": 4000}
    known, kept = store.known_and_kept(
        "tyo-01", {"ds4_hardware": hardware, "ds4_model": "flash-q2"}, mac.bare(512)
    )
    assert len(kept) == 1 and set(kept) < set(known)
    assert known[kept[0]]["bytes"] == 86720111488 and known[kept[0]]["header"]["architecture"] == "deepseek4"


def test_where_no_plan_can_be_made_nothing_counts_as_needless() -> None:
    with pytest.raises(OperatorError, match="tyo-01: what it needs is not known"):
        store.known_and_kept("tyo-01", {"ds4_model": "flash-q9"}, mac.bare(512))


@pytest.mark.parametrize(
    "declared", [{}, mac.variables(128), mac.variables(24)], ids=["none", "less", "a jump Mac"]
)
def test_what_the_mac_itself_needs_is_kept_whatever_is_declared_of_it(declared: dict[str, Any]) -> None:
    planned = make_plan("tyo-01", declared, mac.bare(512)).weights
    assert planned is not None
    _known, kept = store.known_and_kept("tyo-01", declared, mac.bare(512))
    assert kept == [file.name for file in planned.files] != []
