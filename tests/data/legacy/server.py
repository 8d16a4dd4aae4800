"""A server as those of 2004, on SimpleXMLRPCServer of Python 2.7 (or of Python 3, which cannot send raw bytes).

    server.py [--slow] PASSWORD HOSTNAME PORT [OTHERURL]

Shares the files of its current directory. One call at a time, HTTP/1.0, one method `f(token, number, argument)`:
0 takes a list of URLs and returns all that it knows, 1 returns a list holding one list of names, anything else
the contents of a file as one string. A wrong token gets False. With --slow, long answers go out in pieces with a
pause behind each, and the line "half" is printed when half of one has gone out.
"""
import hashlib
import hmac
import os
import re
import sys
import time

try:
    from SimpleXMLRPCServer import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer
    from xmlrpclib import ServerProxy

    def string(data):
        return data

    def key(text):
        return text
except ImportError:
    from xmlrpc.server import SimpleXMLRPCRequestHandler, SimpleXMLRPCServer
    from xmlrpc.client import Binary, ServerProxy

    def string(data):
        return Binary(data)

    def key(text):
        return text.encode("utf-8")

slow = sys.argv[1] == "--slow"
arguments = sys.argv[2 if slow else 1:]
password, host, port = arguments[:3]
own = "http://%s:%s" % (host, port)
known = []


def token(url):
    return hmac.new(key(password), key(url), hashlib.md5).hexdigest()


def servers(urls):
    known.extend(url for url in urls if url not in known)
    return known


def contents(name):
    with open(name, "rb") as opened:
        return string(opened.read())


def f(given, number, argument):
    if given != token(own):
        return False
    # What knows nobody falls through, as an empty list is no answer.
    return (number == 0 and servers(argument)
            or number == 1 and [[name for name in os.listdir(".") if re.search(argument, name)]]
            or contents(argument))


def join(url):
    told = ServerProxy(url).f(token(url), 0, [own])
    for other in servers(told):
        if other not in (own, url):
            ServerProxy(other).f(token(other), 0, [own])


def say(line):
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class InPieces(object):
    """A connection that long answers are written to."""
    PIECE = 1 << 20
    PAUSE = 0.05

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def write(self, data):
        for start in range(0, len(data), self.PIECE):
            self.inner.write(data[start:start + self.PIECE])
            if len(data) > self.PIECE:
                self.inner.flush()
                if start <= len(data) // 2 < start + self.PIECE:
                    say("half")
                time.sleep(self.PAUSE)


class Slowly(SimpleXMLRPCRequestHandler):
    def setup(self):
        SimpleXMLRPCRequestHandler.setup(self)
        self.wfile = InPieces(self.wfile)


server = SimpleXMLRPCServer((host, int(port)), Slowly if slow else SimpleXMLRPCRequestHandler, logRequests=False)
server.register_function(f)
if len(arguments) > 3:
    servers([own, arguments[3]])
    join(arguments[3])
say("ready")
server.serve_forever()
