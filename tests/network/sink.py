"""A small HTTP server that swallows what is uploaded, as a process of its own.

`python -m tests.network.sink HOST PORT [CERT KEY]` prints its port when it listens. It is no part
of cdpfs: the throttle must hold against any server.
"""

import socketserver
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

PIECE_BYTES = 1 << 16


class Sink(BaseHTTPRequestHandler):
    """Answers PUT with the number of bytes that came, GET with as many as the path asks for."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        count = 0
        while left:
            data = self.rfile.read1(min(left, PIECE_BYTES))
            if not data:
                return
            left -= len(data)
            count += len(data)
        self._answer(str(count).encode())

    def do_GET(self) -> None:
        self._answer(b"x" * int(self.path.strip("/") or 0))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_said: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Does not end, nor say much, when a client hangs up."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):
            socketserver.BaseServer.handle_error(self, request, client_address)


def main(host: str, port: str, *tls: str) -> None:
    Server.address_family = AF_INET6 if ip_address(host).version == 6 else AF_INET
    server = Server((host, int(port)), Sink)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        # The handshake belongs to the connection's thread, not to the one that accepts.
        server.socket = context.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
