# Copyright (c) 2026 ds4-fleet contributors
# MIT License (see LICENSE)
"""Carries a switch out on the Mac, without the controller: started by launchd, also after a power cut.

What comes next is decided by ds4_switch_core; every phase is in the journal before its first act.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time

from ansible.module_utils import (
    ds4_answers,
    ds4_parse,
    ds4_run,
    ds4_serving,
    ds4_switch_core,
    ds4_switch_state,
)
from ansible.module_utils.ds4_jobs import JobError, Launchd

POLL_S = 0.25
#: A prompt whose answer is long enough to measure by, and how much of it. The better of the runs counts.
SPEED_PROMPT = "Write the numbers from one to two hundred in words, separated by commas."
SPEED_TOKENS = 96
SPEED_RUNS = 2
BOOTSTRAP_S = 30
MOUNT_WAIT_S = 180


class SwitchError(Exception):
    """One sentence: why it does not go on. `cause`: failed, told (by the controller) or unconfirmed."""

    def __init__(self, sentence, cause="failed"):
        super().__init__(sentence)
        self.cause = cause


class Switch:
    """One run of the program: goes on from the journal until the switch has ended."""

    def __init__(self, root, launchd=None):
        self.places = ds4_switch_state.Places(root)
        self.launchd = launchd or Launchd(BOOTSTRAP_S)
        self.journal = None

    # The journal.

    def enter(self, phase, **more):
        """Write a phase down before its first act."""
        self.journal["phase"] = phase
        self.journal.update(more)
        self.note(phase)

    def note(self, what, **figures):
        self.journal["events"].append(dict(figures, what=what, at_s=round(time.time(), 2)))
        ds4_switch_state.write_json(self.places.journal, self.journal)

    # Running.

    def run(self):
        """Do what journal and order say; returns the phase in which it ended, None for nothing to do."""
        os.makedirs(self.places.var + "/saved", mode=0o755, exist_ok=True)
        with open(self.places.running, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return None
            self.journal = ds4_switch_state.read_json(self.places.journal)
            order = ds4_switch_state.read_json(self.places.order)
            act, reason = ds4_switch_core.next_act(self.journal, order)
            if act == "begin":
                self._begin(order)
            elif act == "cancel":
                self._cancel(reason)
            elif act == "revert":
                self._revert(reason, self.journal.get("cause") or "cut")
            else:
                return None
            return self.journal["phase"]

    def _begin(self, order):
        self.journal = {
            "schema": 1,
            "id": order["id"],
            "run_id": order["run_id"],
            "kind": order["kind"],
            "order": order,
            "reason": "",
            "verdict": None,
            "before": None,
            "after": None,
            "events": [],
        }
        self.enter("armed")
        try:
            wrong = ds4_switch_core.problem(order)
            if wrong:
                raise SwitchError(wrong)
            self._drain()
            self._measure()
        except (SwitchError, ds4_serving.VerifyError, JobError, OSError, KeyError) as error:
            self._cancel(str(error))
            return
        try:
            self._stop()
            self._keep()
            self._flip()
            self._start()
            self._gate()
            self._hold()
        except (SwitchError, ds4_serving.VerifyError, JobError, OSError, KeyError) as error:
            self._revert(str(error), getattr(error, "cause", "failed"))

    def _cancel(self, reason):
        ds4_switch_state.remove(self.places.drain)
        self.enter("cancelled", reason=reason)

    # Before anything is touched.

    def _drain(self):
        order, settings = self.journal["order"], self.journal["order"]["settings"]
        self.enter("draining")
        ds4_switch_state.write_json(
            self.places.drain,
            {"draining": True, "run_id": order["run_id"], "since": round(time.time(), 2)},
        )
        os.chmod(self.places.drain, 0o644)
        began = time.monotonic()
        idle = 0
        # The tunnels tell their clients within told_s; before that a quiet moment says nothing.
        while time.monotonic() - began < settings["drain_s"]:
            if self._answer_is_abort():
                raise SwitchError("the controller said so", "told")
            idle = idle + 1 if self._connections() == 0 else 0
            if idle >= 2 and time.monotonic() - began >= settings["told_s"]:
                break
            time.sleep(POLL_S)
        self.note("drained", seconds=round(time.monotonic() - began, 2), in_flight=self._connections())

    def _connections(self):
        server = self.journal["order"]["target"]["proof"]["server"]
        which = ("-iTCP:%d" % server["port"], "-sTCP:ESTABLISHED", "-a", "-c", "ds4-server")
        found = ds4_run.run("lsof", "-nP", *which, "-F", "pn")
        return sum(len(process["names"]) for process in ds4_parse.lsof(found.out))

    def _measure(self):
        """Figures of the version that serves, and all that is needed to come back to it."""
        self.enter("baseline")
        order = self.journal["order"]
        proof = order["target"]["proof"]
        conf = ds4_switch_state.look(proof["server"]["config_path"])
        if conf["kind"] != "file":
            raise SwitchError("%s is not there: nothing serves that could be upgraded" % conf["path"])
        text = ds4_switch_state.text_of(conf)
        now = ds4_switch_core.proof_of(text, proof, None, None)
        if order["kind"] == "upgrade":
            _job, body = ds4_serving.wait_until_ready(now["server"], 10)
            first = body["data"][0]
            now = ds4_switch_core.proof_of(text, proof, first.get("name"), first.get("context_length"))
            before = ds4_serving.prove_serving(now["server"], now["verify"], now["weights"])
            before["tokens_per_s"] = self._speed(now)
        else:
            before = None
            models = self._models(now)
            if models:
                now = ds4_switch_core.proof_of(
                    text, proof, models["data"][0].get("name"), models["data"][0].get("context_length")
                )
        limit = ds4_run.run("sysctl", "-n", "iogpu.wired_limit_mb")
        state = {
            "files": [ds4_switch_state.look(entry["path"]) for entry in order["target"]["files"]],
            "wired_limit_mib": int(limit.out) if limit.ok and limit.out.strip().isdigit() else None,
            "kv_dir": now["server"]["kv_dir"],
            "proof": now,
            "figures": before,
        }
        ds4_switch_state.write_json(self.places.saved(order["id"]), state)
        self.journal["before"] = before
        self.note("saved")

    @staticmethod
    def _models(proof):
        try:
            return ds4_serving.ask(proof["server"], "GET", "/v1/models")
        except ds4_serving.VerifyError:
            return None

    def _speed(self, proof):
        best = None
        for _run in range(SPEED_RUNS):
            body = self._models(proof)
            if body is None:
                continue
            reply, seconds = ds4_serving.complete(proof["server"], body, SPEED_PROMPT, SPEED_TOKENS)
            tokens = (reply.get("usage") or {}).get("completion_tokens")
            if tokens and seconds > 0:
                best = max(best or 0, round(tokens / seconds, 2))
        return best

    # The switch itself.

    def _stop(self):
        self.enter("stopping")
        self._down()

    def _down(self):
        label = self.journal["order"]["target"]["proof"]["server"]["label"]
        # Disabled first: neither launchd nor a reboot may start it while its files change.
        self._must(self.launchd.run("launchctl", "disable", "system/" + label))
        self.note("down")
        self.launchd.do("bootout", {"label": label})

    def _keep(self):
        self.enter("keeping")
        old = ds4_switch_state.read_json(self.places.saved(self.journal["id"]))["kv_dir"]
        new = self.journal["order"]["target"]["kv_dir"]
        for folder in sorted({old, new} - {""}):
            for path in ds4_switch_state.orphans(folder):
                ds4_switch_state.remove(path)
        if new and new == old:
            ds4_switch_state.keep_kv(new)
        elif new:
            owner = self.journal["order"]["kv"]
            ds4_switch_state.make_kv(new, owner["owner"], owner["group"])

    def _flip(self):
        self.enter("flipping")
        self._put(self.journal["order"]["target"])

    def _put(self, state):
        for entry in state["files"]:
            ds4_switch_state.put(entry)
        limit = state.get("wired_limit_mib")
        live = ds4_run.run("sysctl", "-n", "iogpu.wired_limit_mb")
        if limit is not None and live.out.strip() != str(limit):
            self._must(ds4_run.run("sysctl", "iogpu.wired_limit_mb=%d" % limit))

    def _start(self):
        self.enter("starting")
        self._up(self.journal["order"]["target"]["proof"])

    def _up(self, proof):
        """Start the server of a version and wait until it answers; returns when it does."""
        label = proof["server"]["label"]
        job = {"label": label, "plist": "/Library/LaunchDaemons/%s.plist" % label, "state": "started"}
        self.launchd.is_disabled(label)
        for step in ("enable", "bootstrap", "start"):
            self.launchd.do(step, job)
        ds4_serving.wait_until_ready(proof["server"], proof["verify"]["ready_s"], POLL_S)
        self.note("up")

    def _gate(self):
        self.enter("gating")
        settings = self.journal["order"]["settings"]
        proof = self.journal["order"]["target"]["proof"]
        after = ds4_serving.prove_serving(proof["server"], proof["verify"], proof["weights"], POLL_S)
        after["tokens_per_s"] = self._speed(proof)
        self.journal["after"] = after
        if self.journal["kind"] == "rollback":
            verdict, reason = ds4_switch_core.PASS, "it serves what it served before"
        else:
            verdict, reason = ds4_switch_core.judge(self.journal["before"], after, settings)
        if verdict == ds4_switch_core.FAIL:
            self.journal["verdict"] = verdict
            raise SwitchError(reason)
        self._stays_good(proof, after["pid"], settings["min_healthy_s"])
        self.journal.update(verdict=verdict, reason=reason)

    def _stays_good(self, proof, pid, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._answer_is_abort():
                raise SwitchError("the controller said so", "told")
            job = self.launchd.look(proof["server"]["label"])
            if job is None or job["pid"] != pid:
                why = ds4_answers.why_down(ds4_serving.tail(proof["server"]["log_path"]), job or {})
                raise SwitchError("it did not stay up: " + why)
            if ds4_serving.ask(proof["server"], "GET", "/v1/models") is None:
                raise SwitchError("it stopped answering")
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))

    def _hold(self):
        settings = self.journal["order"]["settings"]
        _phase, deadline = ds4_switch_core.after_gate(self.journal["verdict"])
        self.enter("holding", deadline_s=settings[deadline])
        began = time.monotonic()
        while True:
            answer = ds4_switch_state.read_json(self.places.answer)
            phase, reason = ds4_switch_core.while_holding(
                self.journal["id"], answer, time.monotonic() - began, settings[deadline]
            )
            if phase == "confirmed":
                self._confirm()
                return
            if phase:
                raise SwitchError(reason, "told" if answer else "unconfirmed")
            time.sleep(POLL_S)

    def _answer_is_abort(self):
        answer = ds4_switch_state.read_json(self.places.answer)
        phase, _reason = ds4_switch_core.while_holding(self.journal["id"], answer, 0, 1)
        return phase == "reverting"

    def _confirm(self):
        saved = self.places.saved(self.journal["id"])
        state = ds4_switch_state.read_json(saved)
        new = self.journal["order"]["target"]["kv_dir"]
        ds4_switch_state.write_json(self.places.previous, state)
        ds4_switch_state.remove(self.places.drain)
        self.enter("confirmed")
        # Only what is certain not to be needed any more; a cut here leaves nothing but spare files.
        for folder in {state["kv_dir"], new} - {""}:
            ds4_switch_state.forget_kv(folder)
        for folder in ds4_switch_state.spare_kv(self.places.kv, {state["kv_dir"], new}):
            shutil.rmtree(folder, ignore_errors=True)
        ds4_switch_state.remove(saved)

    # The way back.

    def _revert(self, reason, cause):
        self.enter("reverting", reason=reason, cause=cause)
        try:
            state = ds4_switch_state.read_json(self.places.saved(self.journal["id"]))
            if state is None:
                raise SwitchError("what was replaced is not on record")
            self._down()
            self._wait_for_volumes(state)
            self._put(state)
            new = self.journal["order"]["target"]["kv_dir"]
            for folder in sorted({state["kv_dir"], new} - {""}):
                for path in ds4_switch_state.orphans(folder):
                    ds4_switch_state.remove(path)
            if state["kv_dir"] and state["kv_dir"] == new:
                ds4_switch_state.restore_kv(new)
            self._up(state["proof"])
            ds4_switch_state.remove(self.places.drain)
            figures = ds4_serving.prove_serving(
                state["proof"]["server"], state["proof"]["verify"], state["proof"]["weights"], POLL_S
            )
            self.enter("reverted", back=figures)
            ds4_switch_state.remove(self.places.saved(self.journal["id"]))
        except (SwitchError, ds4_serving.VerifyError, JobError, OSError, KeyError) as error:
            ds4_switch_state.remove(self.places.drain)
            self.enter("stuck", reason="%s; the way back failed: %s" % (reason, error))

    def _wait_for_volumes(self, state):
        """At boot the KV volume comes up late, and a directory below its mount point would be another one."""
        if state["kv_dir"]:
            ds4_run.poll(lambda: os.path.ismount(self.places.kv), MOUNT_WAIT_S, POLL_S)

    @staticmethod
    def _must(result):
        if not result.ok:
            raise SwitchError(result.sentence())
