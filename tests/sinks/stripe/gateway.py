"""A gateway on the way to Stripe, which answers every call itself."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextlib.contextmanager
def gateway(status: int, body: bytes, seconds_a_byte: float = 0) -> Iterator[str]:
    """The address of an HTTP server that gives this answer, and asks for no wait."""
    closing = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Retry-After", "0")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if not seconds_a_byte:
                self.wfile.write(body)
                return
            # Whoever asked may have hung up.
            with contextlib.suppress(ConnectionError):
                for byte in body:
                    self.wfile.write(bytes([byte]))
                    if closing.wait(seconds_a_byte):
                        return

        do_GET = do_POST  # noqa: N815 - the name is http.server's

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test's output is for its failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
