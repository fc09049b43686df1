#!/usr/bin/python
# Copyright: (c) 2026, the ds4-fleet authors
# MIT License (see LICENSE)
"""Prove that the engine works: by hand before the server starts, and by its answers after."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ds4_verify
short_description: Prove that the engine answers as planned
description:
  - C(smoke) runs one prompt through the command line tool as the service account. It is skipped while a
    server runs, because both take the same lock and twice the memory.
  - C(serving) waits for the server with a deadline and watches its job for a crash loop, then compares what
    it serves, how it was started, which weights it has open, where it listens and how much memory is left
    with the plan, and asks for one deterministic chat completion.
  - Changes nothing on the Mac.
version_added: "0.1.0"
author: the ds4-fleet authors (@ds4-fleet)
options:
  state:
    description: What to prove.
    type: str
    choices: [smoke, serving]
    default: serving
  server:
    description: Section C(server) of the plan.
    type: dict
    required: true
  verify:
    description: Section C(verify) of the plan.
    type: dict
    required: true
  weights:
    description: Files that the server must have open.
    type: list
    elements: path
    default: []
  user:
    description: Service account, for I(state=smoke).
    type: str
attributes:
  check_mode:
    support: full
    description: Proves nothing, because nothing was started.
  diff_mode:
    support: none
"""

EXAMPLES = r"""
- name: Prove that the server answers as planned
  ds4_verify:
    server: "{{ ds4_plan.server }}"
    verify: "{{ ds4_plan.verify }}"
    weights: ["{{ ds4_plan.weights.main }}"]
"""

RETURN = r"""
figures:
  description: What was measured; null where it was not.
  type: dict
  returned: success
  sample:
    ready_s: 14.2
    answer: Paris
    completion_tokens: 2
    tokens_per_s: 26.4
    headroom_mib: 9120
skipped_because:
  description: Why nothing was proven.
  type: str
  returned: when skipped
"""

import http.client
import json
import os
import pwd
import socket
import subprocess
import time

from ansible.module_utils import ds4_answers, ds4_parse, ds4_run
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.ds4_jobs import JobError, Launchd

POLL_S = 0.5
PROBE_TIMEOUT_S = 5
#: A test answer of a streaming Mac at 2 tokens a second.
CHAT_TIMEOUT_S = 180
MAX_TOKENS = 64
LOG_BYTES = 16384


class VerifyError(Exception):
    """One sentence: what is not as planned."""


def tail(path):
    """The last bytes of a log as text, "" when it is not there."""
    try:
        with open(path, "rb") as handle:
            handle.seek(max(0, os.stat(path).st_size - LOG_BYTES))
            return handle.read().decode("utf-8", "replace")
    except OSError:
        return ""


def ask(server, method, path, body=None, timeout_s=PROBE_TIMEOUT_S):
    """A JSON answer of the server, None while it cannot be reached; VerifyError for any other status."""
    host = "127.0.0.1" if server["host"] == "0.0.0.0" else server["host"]  # noqa: S104 (compared, not bound)
    connection = http.client.HTTPConnection(host, server["port"], timeout=timeout_s)
    data = json.dumps(body).encode() if body is not None else None
    try:
        connection.request(method, path, data, {"Content-Type": "application/json"} if data else {})
        answer = connection.getresponse()
        text = answer.read().decode("utf-8", "replace")
    except (ConnectionError, socket.timeout):
        return None
    except (OSError, http.client.HTTPException) as error:
        raise VerifyError("%s %s: %s" % (method, path, error)) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise VerifyError(
            "%s %s was answered with %d: %s" % (method, path, answer.status, text[:200].strip())
        )
    try:
        return json.loads(text)
    except ValueError:
        raise VerifyError("%s %s was not answered with JSON: %s" % (method, path, text[:200])) from None


def wait_until_ready(server, ready_s):
    """(job, /v1/models body) once the job's process answers; VerifyError when it cannot or is too late."""
    launchd, watch = Launchd(ready_s), ds4_answers.Watch()
    deadline = time.monotonic() + ready_s
    while True:
        job = launchd.look(server["label"])
        if watch.failed(job):
            if job is None:
                raise VerifyError("%s is not loaded" % server["label"])
            why = ds4_answers.why_down(tail(server["log_path"]), job)
            raise VerifyError("the server does not stay up: " + why)
        if job and job["pid"] is not None:
            body = ask(server, "GET", "/v1/models")
            if body is not None:
                return job, body
        if time.monotonic() >= deadline:
            raise VerifyError(
                "the server was not ready after %d s: %s"
                % (ready_s, ds4_answers.why_down(tail(server["log_path"]), job or {}))
            )
        time.sleep(POLL_S)


def prove_serving(server, verify, weights):
    """Figures of a server that is as planned; raises VerifyError with everything that is not."""
    began = time.monotonic()
    job, body = wait_until_ready(server, verify["ready_s"])
    ready_s = time.monotonic() - began
    pid = job["pid"]
    probes = ds4_run.run_all(
        {
            "ps": ds4_run.argv("ps", "-ww", "-o", "args=", "-p", pid),
            "open": ds4_run.argv("lsof", "-nP", "-p", pid, "-F", "pn"),
            "listen": ds4_run.argv("lsof", "-nP", "-iTCP:%d" % server["port"], "-sTCP:LISTEN", "-F", "pcn"),
            "pressure": ds4_run.argv("memory_pressure", "-Q"),
        }
    )
    names = {name for process in ds4_parse.lsof(probes["open"].out) for name in process["names"]}
    objections = ds4_answers.models(body, verify["model_name"], verify["context"])
    objections += ds4_answers.command_line(probes["ps"].out, server["argv"])
    objections += ds4_answers.open_files(names, weights)
    objections += ds4_answers.listeners(
        ds4_parse.listening(probes["listen"].out), server["host"], server["port"], pid
    )
    free_mib, short = None, []
    pressure = ds4_parse.memory_pressure(probes["pressure"].out)
    if pressure["memory_bytes"] and pressure["free_percent"] is not None:
        free_mib, short = ds4_answers.headroom(
            pressure["free_percent"], pressure["memory_bytes"], verify["headroom_mib"]
        )
    objections += short
    if objections:
        raise VerifyError("; ".join(objections))

    began = time.monotonic()
    asked = {
        "model": body["data"][0].get("id"),
        "messages": [{"role": "user", "content": verify["prompt"]}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
    }
    reply = ask(server, "POST", "/v1/chat/completions", asked, CHAT_TIMEOUT_S)
    if reply is None:
        raise VerifyError("the server did not answer the test prompt within %d s" % CHAT_TIMEOUT_S)
    elapsed_s = time.monotonic() - began
    answer, objections = ds4_answers.completion(reply, verify.get("expect"))
    if objections:
        raise VerifyError("; ".join(objections))
    return {
        "ready_s": round(ready_s, 2),
        "model_name": verify["model_name"],
        "context": verify["context"],
        "answer": answer["text"],
        "completion_tokens": answer["tokens"],
        "tokens_per_s": round(answer["tokens"] / elapsed_s, 2) if answer["tokens"] else None,
        "headroom_mib": free_mib,
        "pid": pid,
    }


def prove_by_hand(server, verify, user):
    """Figures of one run of the command line tool as the service account."""
    account = pwd.getpwnam(user)
    environment = dict(server["env"], PATH="/usr/bin:/bin:/usr/sbin:/sbin", LANG="C")
    drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    argv = server["smoke_argv"]
    began = time.monotonic()
    try:
        done = subprocess.run(
            argv,
            cwd=os.path.dirname(argv[0]),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=verify["ready_s"],
            check=False,
            **(drop if os.geteuid() != account.pw_uid else {}),
        )
    except subprocess.TimeoutExpired:
        raise VerifyError("the smoke test did not end within %d s" % verify["ready_s"]) from None
    except OSError as error:
        raise VerifyError("%s cannot be run: %s" % (argv[0], error.strerror)) from None
    stderr = done.stderr.decode("utf-8", "replace")
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode != 0 or not text:
        said = stderr.strip().splitlines()[-ds4_answers.LOG_LINES :] or ["it said nothing"]
        raise VerifyError(
            "the smoke test as %s ended with status %d and %d letters (%s), the server was not started:\n%s"
            % (user, done.returncode, len(text), said[-1], "\n".join(said))
        )
    figures = {"seconds": round(time.monotonic() - began, 2), "answer": text}
    figures.update(ds4_answers.smoke_figures(stderr))
    return figures


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["smoke", "serving"], "default": "serving"},
            "server": {"type": "dict", "required": True},
            "verify": {"type": "dict", "required": True},
            "weights": {"type": "list", "elements": "path", "default": []},
            "user": {"type": "str"},
        },
        required_if=[("state", "smoke", ["user"])],
        supports_check_mode=True,
    )
    params = module.params
    if module.check_mode:
        module.exit_json(changed=False, figures={}, skipped_because="check mode starts nothing")
    try:
        if params["state"] == "serving":
            figures = prove_serving(params["server"], params["verify"], params["weights"])
        else:
            job = Launchd(0).look(params["server"]["label"])
            if job and job["pid"] is not None:
                module.exit_json(
                    changed=False, figures={}, skipped_because="a server runs and holds the lock"
                )
            figures = prove_by_hand(params["server"], params["verify"], params["user"])
    except (VerifyError, JobError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, figures=figures)


if __name__ == "__main__":
    main()
