"""An HTTP server that answers every GET with the status in a file.

usage: http_status.py PORT FILE
"""

import http.server
import pathlib
import sys

port, file = int(sys.argv[1]), pathlib.Path(sys.argv[2])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            status = int(file.read_text())
        except ValueError:  # the file is being written
            status = 500
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()


http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
