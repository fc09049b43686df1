"""A job as process 1 tells it to launchctl."""

from __future__ import annotations

from typing import Any

from maclab.machine import launchd


def job_data(job: launchd.Job) -> dict[str, Any]:
    """A job as launchctl needs it."""
    spec = job.spec
    return {
        "label": spec.label,
        "path": spec.path,
        "program": spec.program,
        "arguments": list(spec.arguments),
        "inferred": spec.inferred_program,
        "working_directory": spec.working_directory,
        "stdin": spec.stdin_path,
        "stdout": spec.stdout_path,
        "stderr": spec.stderr_path,
        "environment": dict(spec.environment),
        "user": spec.user,
        "group": spec.group,
        "process_type": spec.process_type,
        "state": job.state,
        "pid": job.pid,
        "runs": job.runs,
        "status": job.last_status,
        "exit_reason": job.exit_reason,
        "crashes": job.crashes,
        "reason": job.reason,
        "minimum_runtime_s": job.minimum_runtime_s,
        "exit_timeout_s": spec.exit_timeout_s,
        "keep_alive": spec.keep_alive.any,
        "run_at_load": spec.run_at_load,
        "umask": spec.umask,
        "socket": spec.socket_service,
        "interval_s": spec.start_interval_s,
    }
