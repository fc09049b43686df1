"""github.com as git sees it: smart HTTP for the engine's repository, through git's own http-backend."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from maclab.upstreams import REPOSITORIES
from maclab.upstreams.wire import Answer, Request, text

_PATH = re.compile(r"/([^/]+/[^/]+?)(?:\.git)?(/info/refs|/git-upload-pack|/HEAD|/objects/.+|)/?")


def answer(folder: Path, request: Request) -> Answer:
    """What github.com says: the repository, or 404 as for one that does not exist."""
    match = _PATH.fullmatch(request.path)
    if not match or match[1] not in REPOSITORIES:
        return text(404, "Not Found")
    repository = folder / REPOSITORIES[match[1]]
    if not match[2]:
        return text(200, f"{match[1]}: a repository of the lab, to be cloned with git")
    return _backend(repository, match[2], request)


def _backend(repository: Path, inner: str, request: Request) -> Answer:
    """Run git http-backend as CGI. Bodies are small: the whole repository is a few hundred kilobytes."""
    environment = {
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "GIT_PROJECT_ROOT": str(repository),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        # Without it git refuses a repository that belongs to another user.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "GIT_PROTOCOL": str(request.headers.get("Git-Protocol", "")),
        "PATH_INFO": inner,
        "QUERY_STRING": request.query,
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": str(request.headers.get("Content-Type", "")),
        "CONTENT_LENGTH": str(len(request.body)),
        "HTTP_CONTENT_ENCODING": str(request.headers.get("Content-Encoding", "")),
        "REMOTE_ADDR": request.client,
    }
    done = subprocess.run(
        ["git", "http-backend"], input=request.body, capture_output=True, env=environment, check=False
    )
    head, separator, body = done.stdout.partition(b"\r\n\r\n")
    if not separator:
        return text(500, "the lab's git server failed")
    headers = dict(line.split(": ", 1) for line in head.decode("latin-1").split("\r\n") if ": " in line)
    status = int(headers.pop("Status", "200 OK").split()[0])
    return Answer(status, headers, [body], len(body))
