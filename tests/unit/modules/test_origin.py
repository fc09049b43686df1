"""A source that lies, limits, redirects or drips: the right bytes, or the true reason in one clause."""

import contextlib
import gzip
import http.server
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable, Optional

import pytest

from ds4agent.weights import chunks, origin, transport
from ds4agent.weights import token as weights_token
from tests.support.waited_fetch import Place

DATA = bytes(number * 7 % 251 for number in range(200_000))
SECRET = "hf_secret"


class Server:
    """Answers as `answer(handler)` says; `asked` has (path, Authorization) of each request."""

    def __init__(self, scheme: str, server: http.server.ThreadingHTTPServer) -> None:
        self.asked: list[tuple[str, Optional[str]]] = []
        self.answer: Callable[[Handler], None] = Handler.part
        self.port = server.server_address[1]
        self.url = f"{scheme}://localhost:{self.port}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        served: Server = self.server.served
        served.asked.append((self.path, self.headers.get("Authorization")))
        with contextlib.suppress(OSError):
            served.answer(self)

    def asked_range(self) -> tuple[int, int]:
        first, last = self.headers["Range"].replace("bytes=", "").split("-")
        return int(first), min(int(last) + 1, len(DATA))

    def say(self, status: int, headers: Optional[dict[str, str]] = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def part(self, **changes: str) -> None:
        first, end = self.asked_range()
        headers = {
            "Content-Range": f"bytes {first}-{end - 1}/{len(DATA)}",
            "Content-Length": str(end - first),
        }
        self.say(206, {**headers, **changes}, DATA[first:end])


@contextlib.contextmanager
def serving(scheme: str, context: Optional[ssl.SSLContext] = None) -> Iterator[Server]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    server.served = Server(scheme, server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.served
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "cert.pem"
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    where = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(made)]
    subprocess.run([*command.split(), *where], check=True, capture_output=True)
    return key, made


@pytest.fixture
def secure(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable]:
    """Makes servers that speak TLS and are trusted."""
    key, made = certificate
    monkeypatch.setenv("SSL_CERT_FILE", str(made))
    # A test before may have had certificates read.
    origin._trusted.cache_clear()
    with contextlib.ExitStack() as stack:

        def make() -> Server:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(made, key)
            return stack.enter_context(serving("https", context))

        yield make
    origin._trusted.cache_clear()


@pytest.fixture
def plain() -> Iterator[Server]:
    with serving("http") as server:
        yield server


class Fetched:
    """What came of one fetch: data, why not, and the waits between requests."""

    def __init__(self, url: str, **options: object) -> None:
        self.waits: list[float] = []
        got: list[bytes] = []
        self.error: Optional[transport.SourceError] = None
        source = transport.Source(url, len(DATA), wait=self.waits.append, **options)
        try:
            source.fetch(0, got.append)
        except transport.SourceError as error:
            self.error = error
        self.data = b"".join(got)
        self.why = str(self.error or "")


def gave(place: Place, *urls: str) -> str:
    """Which of the sources of a file gave it."""
    path = f"{place.order['dir']}/f"
    wanted = {"name": "f", "path": path, "bytes": len(DATA), "urls": list(urls)}
    part = chunks.ChunkedPart(path, "r", len(DATA), 65536).open()
    place.route.complete(wanted, part, set())
    assert b"".join(part.read(index) for index in range(part.total)) == DATA
    part.close()
    return place.route.gave


def redirect(location: str, status: int = 302) -> Callable[[Handler], None]:
    return lambda handler: handler.say(status, {"Location": location, "Content-Length": "0"})


class TestTheToken:
    def test_it_is_not_seen_by_another_origin_and_does_not_come_back(self, secure):
        hub, storage = secure(), secure()
        storage.answer = redirect(hub.url + "/signed")

        def answer(handler: Handler) -> None:
            handler.part() if handler.path == "/signed" else redirect(storage.url + "/x")(handler)

        hub.answer = answer
        assert Fetched(hub.url + "/file", token=SECRET).data == DATA
        assert hub.asked == [("/file", "Bearer " + SECRET), ("/signed", None)]
        assert storage.asked == [("/x", None)]

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_it_stays_with_a_file_that_the_same_origin_renamed(self, secure, status):
        hub = secure()

        def answer(handler: Handler) -> None:
            handler.part() if handler.path == "/new" else redirect("/new", status)(handler)

        hub.answer = answer
        assert Fetched(hub.url + "/old", token=SECRET).data == DATA
        assert {token for _path, token in hub.asked} == {"Bearer " + SECRET}

    @pytest.mark.parametrize("same_host_name", [True, False])
    def test_nothing_is_asked_in_clear_after_https(self, secure, plain, same_host_name):
        hub = secure()
        hub.answer = redirect(f"http://{'localhost' if same_host_name else '127.0.0.1'}:{plain.port}/file")
        fetched = Fetched(hub.url + "/file", token=SECRET)
        assert "from https to http" in fetched.why and fetched.waits == []
        assert plain.asked == []

    def test_a_source_in_clear_may_lead_to_a_safe_one_which_sees_no_token(self, secure, plain):
        storage = secure()
        plain.answer = redirect(storage.url + "/x")
        assert Fetched(plain.url + "/file", token=SECRET).data == DATA
        assert (plain.asked, storage.asked) == ([("/file", None)], [("/x", None)])

    @pytest.mark.parametrize(
        "token", ["hf_secret\r\nX-Other: 1", "hf_secret\nmore", "hf_sécret", "hf_secret€", "hf secret", "\0"]
    )
    def test_one_that_no_header_can_carry_costs_its_source_alone(self, secure, plain, tmp_path, token):
        hub = secure()
        fetched = Fetched(hub.url + "/file", token=token)
        assert fetched.why.startswith("its token has line ends, blanks or letters") and hub.asked == []
        assert "hf_s" not in fetched.why and token not in fetched.why
        place = Place(tmp_path)
        place._token = lambda: token
        assert gave(place, hub.url + "/file", plain.url + "/file") == plain.url + "/file"
        assert hub.asked == []

    @pytest.mark.parametrize(
        ("text", "token"),
        [
            ("hf_x\n", "hf_x"),
            ("HF_TOKEN=hf_x\n", "hf_x"),
            ('OTHER=1\nexport HF_TOKEN="hf_x"\nMORE=2\n', "hf_x"),
            ("hf_x\nhf_y\n", "hf_x\nhf_y"),
        ],
    )
    def test_a_file_of_variables_holds_others_too(self, tmp_path, text, token):
        (tmp_path / "token").write_text(text)
        (tmp_path / "token").chmod(0o600)
        assert weights_token.read(str(tmp_path / "token")) == token

    def test_a_token_file_that_is_none_is_said_and_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "fifo", 0o600)
        for name in ("fifo", ".", "missing"):
            with pytest.raises(ValueError, match="token file"):
                weights_token.read(str(tmp_path / name))
        (tmp_path / "bytes").write_bytes(b"\xff\xfe\n")
        (tmp_path / "bytes").chmod(0o600)
        with pytest.raises(origin.SourceError, match="write it anew"):
            origin.bearer(weights_token.read(str(tmp_path / "bytes")))

    def test_a_proxy_s_password_is_for_the_proxy(self):
        request = origin.range_request("http://a.example/x", 0, 1)
        request.add_header("Proxy-authorization", "Basic eDp5")
        following = origin.Redirects().redirect_request(request, None, 302, "", {}, "http://a.example/y")
        assert "Proxy-authorization" not in following.headers and "Range" in following.headers


class TestRedirects:
    @pytest.mark.parametrize(
        "location",
        [
            "ftp://localhost/file",
            "file:///etc/passwd",
            "data:text/plain,x",
            "javascript:1",
            "http://[::1/",
            "http://localhost:99999/",
            "http://localhost:port/",
            "http://user:word@localhost/",
            "http:///nowhere",
            "http://" + "a" * 300 + ".example/",
            "http://localhost/" + "a" * 20_000,
        ],
    )
    def test_what_cannot_be_followed_is_said_once(self, plain, location):
        plain.answer = redirect(location)
        fetched = Fetched(plain.url + "/file")
        assert fetched.why.startswith(("it redirects", "its address makes no sense", "no connection"))
        assert len(fetched.why) < 200

    def test_circles_end(self, plain):
        plain.answer = redirect("/again")
        assert "without end (10 times)" in Fetched(plain.url + "/file").why
        assert len(plain.asked) == 11

    def test_one_without_an_address_is_a_refusal(self, plain):
        plain.answer = lambda handler: handler.say(302)
        assert "to nowhere (status 302)" in Fetched(plain.url + "/file").why

    def test_the_body_of_one_is_not_read(self, plain):
        def answer(handler: Handler) -> None:
            if handler.path == "/new":
                return handler.part()
            handler.say(302, {"Location": "/new"})
            while True:
                handler.wfile.write(b"x" * 65536)

        plain.answer = answer
        assert Fetched(plain.url + "/file").data == DATA


class TestDenied:
    """401 and 403: what the hub says of a file is final, what an edge of its network says may pass."""

    @pytest.mark.parametrize("token", ["", SECRET])
    def test_a_storage_that_denies_is_named_and_asked_by_a_new_link_each_time(self, plain, token):
        def answer(handler: Handler) -> None:
            if handler.path.startswith("/denied"):
                handler.say(403, {"Content-Type": "application/xml"}, b"<Error/>")
            else:
                redirect(f"http://127.0.0.1:{plain.port}/denied?Signature={len(plain.asked)}")(handler)

        plain.answer = answer
        fetched = Fetched(plain.url + "/file", token=token)
        assert (
            fetched.why == "its storage 127.0.0.1 refuses the file (status 403), 5 times in a row at byte 0"
        )
        links = [path for path, _token in plain.asked if path.startswith("/denied")]
        assert len(set(links)) == 5

    @pytest.mark.parametrize("token", ["", SECRET])
    def test_a_refusal_that_passes_is_waited_for(self, secure, token):
        hub = secure()

        def answer(handler: Handler) -> None:
            handler.say(403) if len(hub.asked) <= 2 else handler.part()

        hub.answer = answer
        fetched = Fetched(hub.url + "/file", token=token)
        assert (fetched.data, fetched.waits) == (DATA, [1, 2])

    @pytest.mark.parametrize(
        ("status", "headers"),
        [(401, {}), (401, {"X-Error-Code": "GatedRepo"}), (403, {"X-Error-Code": "GatedRepo"})],
    )
    def test_a_gate_of_the_hub_is_final(self, secure, status, headers):
        hub = secure()
        hub.answer = lambda handler: handler.say(status, headers)
        assert f"it wants a token (status {status}): set ds4_prefetch_token" in Fetched(hub.url + "/file").why
        fetched = Fetched(hub.url + "/file", token=SECRET)
        assert fetched.why == f"its token may not read the file (status {status})"
        assert len(hub.asked) == 2 and fetched.waits == []

    def test_a_gate_behind_a_mirror_is_not_its_own(self, plain):
        def answer(handler: Handler) -> None:
            if handler.path == "/gated":
                handler.say(401, {"X-Error-Code": "GatedRepo"})
            else:
                redirect(f"http://127.0.0.1:{plain.port}/gated")(handler)

        plain.answer = answer
        assert Fetched(plain.url + "/file").why.startswith("it redirects to 127.0.0.1, which wants a token")


class TestBusy:
    """429, and 503 that names a time: the file is there, only not yet."""

    def after(self, server: Server, refusals: int, status: int, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}

        def answer(handler: Handler) -> None:
            handler.say(status, named) if len(server.asked) <= refusals else handler.part()

        server.answer = answer

    def test_waits_grow_beyond_the_hub_s_window(self, plain):
        self.after(plain, 10, 429)
        fetched = Fetched(plain.url + "/file")
        assert fetched.waits == [1, 2, 4, 8, 16, 32, 64, 64, 64, 64] and fetched.data == DATA

    def test_it_is_given_up_at_last_and_may_be_asked_later(self, plain):
        self.after(plain, 10**6, 429)
        fetched = Fetched(plain.url + "/file")
        assert isinstance(fetched.error, transport.Busy)
        assert fetched.why.startswith("it is asked too often (status 429), ")
        assert 800 < sum(fetched.waits) <= transport.PATIENCE_S

    def test_a_window_that_the_hub_names_is_slept_through(self, plain):
        self.after(plain, 1, 429, RateLimit='"resolvers";r=0;t=25')
        assert Fetched(plain.url + "/file").waits == [25]

    @pytest.mark.parametrize(
        ("value", "waits"), [("0", [1, 2]), ("0.5", [1, 2]), ("7", [7, 7]), ("²", [60, 60])]
    )
    def test_a_time_that_the_hub_names_counts_and_is_never_none(self, plain, value, waits):
        self.after(plain, 2, 429, Retry_After=value)
        assert Fetched(plain.url + "/file").waits == waits

    def test_a_time_without_an_end_is_a_refusal(self, plain):
        for value in ("3600", "1" + "0" * 8):
            self.after(plain, 10**6, 503, Retry_After=value)
            assert "it asks to come back in" in Fetched(plain.url + "/file").why

    def test_where_there_is_another_source_that_one_is_tried_soon(self, plain, tmp_path):
        self.after(plain, 8, 429)
        place = Place(tmp_path)
        assert gave(place, plain.url + "/a", "http://localhost:1/b") == plain.url + "/a"
        assert len(plain.asked) == 9
        # Brief with the first, refused by the second, and so on in rounds.
        assert sum(place.slept) < 100


class TestWhatCountsAsData:
    @pytest.mark.parametrize("name", ["Content-Encoding", "Transfer-Encoding"])
    @pytest.mark.parametrize(
        "value", ["gzip", "br", "deflate", "zstd", "GZIP", "gzip, chunked", "identity, gzip"]
    )
    def test_packed_bytes_are_not_taken(self, plain, name, value):
        plain.answer = lambda handler: handler.part(**{name: value})
        fetched = Fetched(plain.url + "/file")
        assert fetched.why == f"it sends the file packed ({name}: {value})" and not fetched.data

    def test_a_packed_whole_is_not_taken(self, plain):
        packed = gzip.compress(DATA)
        headers = {"Content-Encoding": "gzip", "Content-Length": str(len(DATA))}
        plain.answer = lambda handler: handler.say(200, headers, packed)
        assert "packed" in Fetched(plain.url + "/file").why

    def test_bytes_as_they_are_may_say_so(self, plain):
        plain.answer = lambda handler: handler.part(**{"Content-Encoding": "identity"})
        assert Fetched(plain.url + "/file").data == DATA

    @pytest.mark.parametrize(
        ("given", "why"),
        [
            ("bytes 1-99999/200000", "another range"),
            ("bytes 0-150000/200000", "another range"),
            ("bytes 99999-0/200000", "another range"),
            ("bytes 0-99999/200001", "its file has 200001 bytes"),
            ("bytes 0-99998/200000", "not as long as its range"),
            ("bytes 0-99999", "without a range"),
            ("bytes 0-99999/200000, bytes 0-1/2", "without a range"),
            ("bytes */200000", "without a range"),
            ("items 0-99999/200000", "without a range"),
            ("bytes 0-" + "9" * 5000 + "/200000", "without a range"),
            ("", "without a range"),
        ],
    )
    def test_a_range_is_the_one_that_was_asked_for(self, plain, given, why):
        plain.answer = lambda handler: handler.part(**{"Content-Range": given})
        fetched = Fetched(plain.url + "/file", range_bytes=100_000)
        assert why in fetched.why and not fetched.data

    def test_a_shorter_range_than_asked_for_is_taken_as_what_it_is(self, plain):
        def answer(handler: Handler) -> None:
            first, end = handler.asked_range()
            end = min(end, first + 70_000)
            handler.say(206, {"Content-Range": f"bytes {first}-{end - 1}/*"}, DATA[first:end])

        plain.answer = answer
        fetched = Fetched(plain.url + "/file")
        assert (fetched.data, fetched.waits, len(plain.asked)) == (DATA, [], 3)

    @pytest.mark.parametrize("size", [b"-1", b"-5", b"zz", b""])
    def test_a_chunk_of_no_size_is_a_lost_connection(self, plain, size):
        def answer(handler: Handler) -> None:
            first, end = handler.asked_range()
            headers = {
                "Content-Range": f"bytes {first}-{end - 1}/{len(DATA)}",
                "Transfer-Encoding": "chunked",
            }
            handler.say(206, headers, size + b"\r\n")
            for _piece in range(2000):
                handler.wfile.write(b"x" * 65536)

        plain.answer = answer
        assert "5 times in a row at byte" in Fetched(plain.url + "/file").why

    @pytest.mark.parametrize(
        "body", [b"\xff\xfe not http\r\n\r\n", b"", b"HTTP/1.1 two hundred\r\n\r\n", b"x" * 70_000]
    )
    def test_what_is_no_http_is_short_and_without_control_characters(self, plain, body):
        plain.answer = lambda handler: handler.wfile.write(b"\x1b[2J\x07" + body)
        why = Fetched(plain.url + "/file").why
        assert len(why) < 160 and why.isprintable()
