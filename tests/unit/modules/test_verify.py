"""What a server says against what was planned."""

from __future__ import annotations

import pytest

from ds4agent.engine import answers

MAY = {"data": [{"id": "deepseek-v4-flash", "name": "DeepSeek V4 Flash", "context_length": 100000}]}
JULY = {
    "data": [*MAY["data"], {"id": "deepseek-v4-pro", "name": "DeepSeek V4 Flash", "context_length": 100000}]
}


class TestModels:
    @pytest.mark.parametrize("body", [MAY, JULY])
    def test_the_name_tells_the_family_whatever_aliases_are_listed(self, body):
        assert answers.models(body, "DeepSeek V4 Flash", 100000) == []

    def test_another_family_and_another_context_are_both_named(self):
        assert answers.models(JULY, "DeepSeek V4 Pro", 65536) == [
            "the server has DeepSeek V4 Flash loaded, not DeepSeek V4 Pro",
            "the server offers a context of 100000 tokens, not 65536",
        ]

    def test_no_model_is_an_objection(self):
        assert answers.models({"data": []}, "x", 1) == ["/v1/models lists no model"]


class TestCompletion:
    def body(self, content: str, **message: str) -> dict:
        return {
            "choices": [{"message": {"content": content, **message}, "finish_reason": "stop"}],
            "usage": {"completion_tokens": 3},
        }

    def test_any_answer_is_good_when_none_is_expected(self):
        answer, objections = answers.completion(self.body("Paris"), "")
        assert (answer, objections) == ({"text": "Paris", "tokens": 3, "finish": "stop"}, [])

    def test_thinking_counts_as_an_answer(self):
        answer, objections = answers.completion(self.body("", reasoning_content="Hm"), None)
        assert (answer["text"], objections) == ("Hm", [])

    def test_an_expected_word_is_looked_for_whatever_its_case(self):
        assert answers.completion(self.body("It is PARIS."), "paris")[1] == []
        assert answers.completion(self.body("Rome"), "paris")[1]

    def test_an_empty_answer_is_an_objection(self):
        assert answers.completion(self.body("  "), "")[1]
        assert answers.completion({}, "")[1]


class TestProcess:
    LISTENER = {"address": "127.0.0.1", "port": 8000, "pid": 7, "command": "ds4-server"}

    def test_one_loopback_listener_of_our_process_is_good(self):
        assert answers.listeners([self.LISTENER], "127.0.0.1", 8000, 7) == []

    @pytest.mark.parametrize(("host", "address"), [("localhost", "127.0.0.1"), ("0.0.0.0", "*")])
    def test_an_address_is_the_planned_one_as_lsof_writes_it(self, host, address):
        assert answers.listeners([{**self.LISTENER, "address": address}], host, 8000, 7) == []
        (said,) = answers.listeners([{**self.LISTENER, "address": "192.0.2.7"}], host, 8000, 7)
        assert "open on 192.0.2.7" in said

    def test_an_open_address_and_a_stranger_are_objections(self):
        wide = {**self.LISTENER, "address": "*", "pid": 9, "command": "python3"}
        first, second = answers.listeners([self.LISTENER, wide], "127.0.0.1", 8000, 7)
        assert "open on *" in first
        assert "python3 (pid 9)" in second

    def test_the_command_line_must_be_the_planned_one(self):
        assert answers.command_line("/r/ds4-server --ctx 5\n", ["/r/ds4-server", "--ctx", "5"]) == []
        assert answers.command_line("/r/ds4-server --ctx 6\n", ["/r/ds4-server", "--ctx", "5"])

    def test_weights_must_be_open(self):
        assert answers.open_files({"/m/a.gguf", "/dev/null"}, ["/m/a.gguf"]) == []
        assert answers.open_files(set(), ["/m/a.gguf"]) == ["the server does not have /m/a.gguf open"]

    def test_headroom_is_counted_in_mib_of_the_whole_memory(self):
        assert answers.headroom(10, 96 << 30, 2048) == (9830, [])
        assert answers.headroom(1, 96 << 30, 2048)[1]

    def test_speeds_are_read_from_the_tools_last_line(self):
        line = "ds4: loading\nds4: prefill: 84.43 t/s, generation: 36.86 t/s\n"
        assert answers.smoke_figures(line) == {"prefill_tps": 84.43, "generation_tps": 36.86}
        assert answers.smoke_figures("")["prefill_tps"] is None


def job(**fields: object) -> dict:
    return {
        "pid": None,
        "runs": 1,
        "last_exit_code": None,
        "last_signal": None,
        "last_exit_reason": None,
        "state": "running",
        **fields,
    }


class TestWatch:
    def failed_after(self, *looks: dict | None) -> bool:
        watch = answers.Watch()
        return [watch.failed(look) for look in looks][-1]

    def test_a_job_that_loads_for_long_is_waited_for(self):
        assert not self.failed_after(*[job(pid=4)] * 50)

    def test_an_old_exit_code_of_a_running_job_means_nothing(self):
        assert not self.failed_after(*[job(pid=4, last_exit_code=1)] * 50)

    def test_a_job_that_is_seen_dead_again_and_again_has_failed(self):
        assert self.failed_after(*[job(last_exit_code=78)] * answers.Watch.LOOKS)
        assert not self.failed_after(*[job(last_exit_code=78)] * (answers.Watch.LOOKS - 1), job(pid=5))

    def test_a_crash_loop_is_seen_by_its_starts(self):
        assert self.failed_after(job(pid=1, runs=1), job(pid=2, runs=2), job(pid=3, runs=3))

    def test_what_macos_will_refuse_again_is_not_waited_for(self):
        assert self.failed_after(job(last_exit_reason="OS_REASON_CODESIGNING"))
        assert not self.failed_after(job(last_exit_reason="OS_REASON_CODESIGNING", pid=5))
        assert not self.failed_after(job(last_exit_reason="JETSAM_REASON_MEMORY_VMPAGESHORTAGE"))

    def test_memory_taken_back_again_and_again_is_a_failure(self):
        taken = job(last_exit_reason="JETSAM_REASON_MEMORY_VMPAGESHORTAGE")
        assert self.failed_after(*[taken] * answers.Watch.LOOKS)

    def test_a_job_that_is_not_loaded_has_failed(self):
        assert self.failed_after(*[None] * answers.Watch.LOOKS)


class TestWhyDown:
    def test_a_refusal_is_told_in_its_own_words(self):
        log = "older\nREFUSE: volume /opt/ds4/kv is not mounted (waited 120 s)\n"
        assert answers.why_down(log, job(last_exit_code=78)) == (
            "it refused to start: volume /opt/ds4/kv is not mounted (waited 120 s)"
        )

    def test_an_older_refusal_does_not_explain_a_later_failure(self):
        why = answers.why_down("REFUSE: old\nds4: metal backend unavailable\n", job(last_exit_code=1))
        assert why.splitlines()[0] == "ended with status 1: ds4: metal backend unavailable"

    def test_a_kill_is_named(self):
        assert answers.why_down("", job(last_signal=9)).startswith("killed by signal 9 (SIGKILL)")

    def test_a_reason_of_macos_is_named_with_what_it_means(self):
        why = answers.why_down("", job(last_exit_reason="OS_REASON_CODESIGNING"))
        assert why.startswith("ended by macOS with OS_REASON_CODESIGNING (its code signature was refused")
        assert answers.ended(job(last_exit_reason="OS_REASON_NEW")) == "ended by macOS with OS_REASON_NEW"

    def test_what_ended_well_or_never_has_no_reason(self):
        assert answers.ended(job()) == answers.ended(job(last_exit_code=0)) == ""
