"""Calls servers of 2004 as a client of 2004 does, through xmlrpclib of Python 2.7 (or of Python 3).

Reads a JSON array of calls from standard input, each [PASSWORD, URL, CALLED, NUMBER, ARGUMENT]: the token is
for URL, the call goes to CALLED. Prints a JSON object a line for each: what came back.
"""
import hashlib
import hmac
import json
import sys

try:
    import xmlrpclib
    binary, text = str, unicode
except ImportError:
    import xmlrpc.client as xmlrpclib
    binary, text = bytes, str


def told(value):
    """What a result is, in terms that JSON has; bytes are in hex."""
    if isinstance(value, xmlrpclib.Binary):
        return {"binary": tohex(value.data)}
    if isinstance(value, bool):
        return {"boolean": value}
    if isinstance(value, (list, tuple)):
        return {"list": [told(one) for one in value]}
    if isinstance(value, binary) or isinstance(value, text):
        return {"text": tohex(value if isinstance(value, binary) else value.encode("utf-8"))}
    return {"other": repr(value)}


def tohex(data):
    return "".join("%02x" % byte for byte in bytearray(data))


def sent(argument):
    """Python 2 programs have byte strings where others have text."""
    if isinstance(argument, list):
        return [sent(one) for one in argument]
    if binary is str and isinstance(argument, text):
        return argument.encode("utf-8")
    return argument


for password, url, called, number, argument in json.load(sys.stdin):
    key = hmac.new(password.encode("utf-8"), url.encode("utf-8"), hashlib.md5)
    try:
        server = xmlrpclib.ServerProxy(str(called))
        answer = told(server.f(key.hexdigest(), number, sent(argument)))
    except xmlrpclib.Fault as fault:
        answer = {"fault": fault.faultCode, "why": fault.faultString}
    except xmlrpclib.ProtocolError as error:
        answer = {"status": error.errcode}
    print(json.dumps(answer))
