"""Records what xmlrpclib and SimpleXMLRPCServer of Python 2.7 put on the wire, bodies alone, into `recorded/`.

    python2.7 record.py

Nothing is made up here: calls are taken off a socket that `ServerProxy` sent them to, answers are those of a
running server. The same files come out every time. `net/src/legacy/wire/tests.rs` reads them.
"""
import hashlib
import hmac
import os
import socket
import threading

from SimpleXMLRPCServer import SimpleXMLRPCServer
from xmlrpclib import ServerProxy

DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "recorded")

# As in net/PROTOCOL.md, section 10.
TOKEN = hmac.new("pw", "http://192.0.2.7:15204", hashlib.md5).hexdigest()

CALLS = {
    "call-0-one": (0, ["http://192.0.2.8:15204"]),
    "call-0-none": (0, []),
    "call-1-pattern": (1, r"^a.*\.(txt|ogg)$ <&>"),
    "call-1-all": (1, ""),
    "call-2-ascii": (2, "a.txt"),
    "call-2-utf-8": (2, "gr\xc3\xbcn & <co>.txt"),
    "call-2-latin-1": (2, "caf\xe9"),
}

NAMES = ["plain.txt", "gr\xc3\xbcn.txt", "caf\xe9", "a&b", "<c>", "]]>", ".hidden", "two  spaces "]

ANSWERS = {
    "servers-none": [],
    "servers-some": ["http://192.0.2.7:15204", "http://box.example:80", "http://192.0.2.9:1?a&b"],
    "names": [NAMES],
    "names-none": [[]],
    "contents-lines": "one\r\ntwo\rthree\n\r",
    "contents-control": "\x00\x01\x08\x0b\x0c\x1b[31m\x7f",
    "contents-all-bytes": "".join(map(chr, range(256))),
    "contents-empty": "",
    "contents-cdata-end": "text ending with ]]>",
    "contents-markup": "<?xml version='1.0'?><value>&amp;&#13;</string></value>",
    "denied": False,
}


def listening():
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen(1)
    return opened


def body(message):
    """What comes behind the head of an HTTP message."""
    return message.split("\r\n\r\n", 1)[1]


def write(name, content):
    with open(os.path.join(DIRECTORY, name + ".xml"), "wb") as opened:
        opened.write(content)


def record_call(name, number, argument):
    listener = listening()

    def client():
        try:
            ServerProxy("http://127.0.0.1:%d" % listener.getsockname()[1]).f(TOKEN, number, argument)
        except Exception:
            # It gets no answer.
            pass

    thread = threading.Thread(target=client)
    thread.start()
    connection = listener.accept()[0]
    # Nobody else wants to come in: the client tries again when it got no answer.
    listener.close()
    message = ""
    while not message.endswith("</methodCall>\n"):
        message += connection.recv(65536)
    connection.close()
    thread.join()
    write(name, body(message))


def record_answer(name, function):
    server = SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
    server.register_function(function, "f")
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    call = "<methodCall><methodName>f</methodName><params></params></methodCall>"
    client = socket.create_connection(server.server_address)
    client.sendall("POST /RPC2 HTTP/1.0\r\nContent-Length: %d\r\n\r\n%s" % (len(call), call))
    message = "".join(iter(lambda: client.recv(65536), ""))
    thread.join()
    server.server_close()
    write(name, body(message))


for name, (number, argument) in CALLS.items():
    record_call(name, number, argument)
for name, value in ANSWERS.items():
    record_answer(name, lambda: value)
# Opened as the server does, in a directory where it is not.
record_answer("fault", lambda: open("absent & <caf\xe9>").read())
