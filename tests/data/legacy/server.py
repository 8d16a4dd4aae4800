"""A server as those of 2004, on SimpleXMLRPCServer of Python 2.7 (or of Python 3, which cannot send raw bytes).

    server.py PASSWORD HOSTNAME PORT [OTHERURL]

Shares the files of its current directory. One call at a time, HTTP/1.0, one method `f(token, number, argument)`:
0 takes a list of URLs and returns all that it knows, 1 returns a list holding one list of names, anything else
the contents of a file as one string. A wrong token gets False.
"""
import hashlib
import hmac
import os
import re
import sys

try:
    from SimpleXMLRPCServer import SimpleXMLRPCServer
    from xmlrpclib import ServerProxy

    def string(data):
        return data

    def key(text):
        return text
except ImportError:
    from xmlrpc.server import SimpleXMLRPCServer
    from xmlrpc.client import Binary, ServerProxy

    def string(data):
        return Binary(data)

    def key(text):
        return text.encode("utf-8")

password, host, port = sys.argv[1:4]
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


server = SimpleXMLRPCServer((host, int(port)), logRequests=False)
server.register_function(f)
if len(sys.argv) > 4:
    servers([own, sys.argv[4]])
    join(sys.argv[4])
sys.stdout.write("ready\n")
sys.stdout.flush()
server.serve_forever()
