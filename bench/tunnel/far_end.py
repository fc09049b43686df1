"""The engine's part in the tunnel benchmark: small answers, bulk, and a stream of timed events.

Answers one request per connection, as the engine does. Each event carries the clock at which it was written,
so that a reader on the same machine can tell how long it was under way.
"""

from __future__ import annotations

import asyncio
import sys
import time
from urllib.parse import parse_qs, urlsplit

MODELS = b'{"object":"list","data":[{"id":"deepseek-v4-flash","name":"bench","context_length":100000}]}'
BLOCK = b"\0" * (256 << 10)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """GET /v1/models, /bulk?bytes=N, /v1/completions?count=N&gap_ms=M."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        url = urlsplit(head.split(b" ", 2)[1].decode())
        query = {key: float(values[0]) for key, values in parse_qs(url.query).items()}
        if url.path == "/bulk":
            left = int(query["bytes"])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % left)
            while left > 0:
                writer.write(BLOCK[: min(left, len(BLOCK))])
                left -= len(BLOCK)
                await writer.drain()
        elif url.path == "/v1/completions":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
            for _ in range(int(query["count"])):
                writer.write(b"data: %.6f %s\n\n" % (time.monotonic(), b"x" * 150))
                await asyncio.sleep(query["gap_ms"] / 1000)
            writer.write(b"data: [DONE]\n\n")
        else:
            size = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(MODELS)
            writer.write(size + MODELS)
        await writer.drain()
    except (OSError, EOFError):
        pass
    finally:
        writer.close()


async def main(port: int, address: str) -> None:
    """Serves until killed."""
    server = await asyncio.start_server(answer, address, port, backlog=256, limit=1 << 16)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
