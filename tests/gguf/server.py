"""A local HTTP server that knows ranges, and counts the bytes it sends."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves `files` (path -> bytes); `ranges` and `sizes` say whether it knows ranges and tells sizes."""

    def __init__(self, files: dict[str, bytes], ranges: bool = True, sizes: bool = True):
        self.files, self.ranges, self.sizes = files, ranges, sizes
        self.sent = 0
        self.requests: list[str] = []
        self.address = ""


@contextlib.contextmanager
def serving(files: dict[str, bytes], ranges: bool = True, sizes: bool = True) -> Iterator[Server]:
    state = Server(files, ranges, sizes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            state.requests.append(f"{self.command} {self.headers.get('Range', '')}".strip())
            content = state.files.get(self.path.partition("?")[0])
            if content is None:
                return self.send_error(404)
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            part = content
            if wanted and state.ranges:
                first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
                part = content[first : last + 1]
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
            else:
                self.send_response(200)
            if state.sizes:
                self.send_header("Content-Length", str(len(part)))
            self.send_header("Connection", "close")
            self.end_headers()
            if body:
                with contextlib.suppress(ConnectionError):
                    for start in range(0, len(part), 65536):
                        state.sent += len(part[start : start + 65536])  # first, so that who has them finds them counted
                        self.wfile.write(part[start : start + 65536])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
