"""The HTTPS servers of the fake upstreams: one process, a thread per connection, a certificate per name."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path

from maclab.upstreams import CDN, GITHUB, HOSTS, HUB, MIRROR, certificates, github, hub, wire
from maclab.upstreams.rules import Behaviour, Rules
from maclab.upstreams.wire import Answer, Dropped, Paces, Request, RequestLog

IDLE_S = 30
BACKLOG = 128


class Servers:
    """Servers on one or more addresses. `start` returns when they listen; `stop` ends them."""

    def __init__(self, folder: Path, addresses: list[str], port: int = 443) -> None:
        self.folder = folder
        self.addresses = addresses
        self.port = port
        self._rules = Rules(folder)
        self._paces = Paces()
        self._log = RequestLog(folder / "requests.jsonl")
        self._contexts = {name: self._context(name) for name in HOSTS}
        self._listeners: list[socket.socket] = []
        self._stopping = threading.Event()

    def start(self) -> None:
        """Listen. Raises OSError when an address cannot be had; port 0 is replaced by the one given."""
        for address in self.addresses:
            listener = socket.create_server((address, self.port), backlog=BACKLOG)
            self.port = listener.getsockname()[1]
            self._listeners.append(listener)
        for listener in self._listeners:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        for listener in self._listeners:
            # Wakes the accepting thread, which a plain close would not.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _context(self, name: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.leaf_path(self.folder, name))
        context.set_alpn_protocols(["http/1.1"])
        if name == GITHUB:  # the one that sees a connection first

            def choose(session: ssl.SSLObject, wanted: str | None, _first: ssl.SSLContext) -> int | None:
                if wanted is not None and wanted not in self._contexts:
                    return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
                session.context = self._contexts[wanted or GITHUB]
                return None

            context.sni_callback = choose
        return context

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                connection, peer = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection, str(peer[0])), daemon=True).start()

    def _serve(self, raw: socket.socket, client: str) -> None:
        raw.settimeout(IDLE_S)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with raw, contextlib.suppress(OSError, Dropped, ValueError):
            if self._rules.outage(client):
                # Heard first: a client that has not yet noticed that it is connected would call it a refusal.
                raw.recv(1)
                wire.reset(raw)
                return
            with self._contexts[GITHUB].wrap_socket(raw, server_side=True) as connection:
                stream = connection.makefile("rb")
                while request := wire.read_request(stream, client):
                    if not self._answer(connection, request):
                        return

    def _answer(self, connection: ssl.SSLSocket, request: Request) -> bool:
        """Answer one request; returns whether the connection goes on."""
        behaviour = self._rules.behaviour(request.host, request.path, request.client, request.method)
        started = time.monotonic()
        if behaviour.latency_s:
            time.sleep(behaviour.latency_s)
        answer = self._decide(request, behaviour)
        sent = 0
        goes_on = request.headers.get("Connection", "").lower() != "close"
        try:
            if answer is None:
                wire.reset(connection)
                return False
            if not goes_on:
                answer.headers["Connection"] = "close"
            sent = wire.send(connection, request, answer, behaviour, self._paces)
        except wire.Reset as error:
            sent = error.sent
            return False
        finally:
            self._log.add(
                {
                    "time": round(time.time(), 3),
                    "client": request.client,
                    "host": request.host,
                    "method": request.method,
                    "path": request.path,
                    "range": request.range,
                    "status": answer.status if answer else 0,
                    "file": answer.file if answer else "",
                    "bytes": sent,
                    "seconds": round(time.monotonic() - started, 3),
                    "rules": list(behaviour.names),
                }
            )
        return goes_on

    def _decide(self, request: Request, behaviour: Behaviour) -> Answer | None:
        if behaviour.outage:
            return None
        if behaviour.status:
            answer = wire.text(behaviour.status, "refused by a rule of the lab")
            if behaviour.retry_after_s is not None:
                answer.headers["Retry-After"] = str(behaviour.retry_after_s)
            return answer
        if request.host == GITHUB:
            return github.answer(self.folder, request)
        if request.host in (HUB, CDN, MIRROR):
            return hub.answer(self.folder, request, behaviour)
        return wire.text(404, "no such host in this lab")
