"""Writes down whom this Python process reaches for on other machines, and does not let it. Processes that start with
this folder on their path are watched."""

import os
import socket
import sys

WHERE = {"socket.connect": 1, "socket.sendto": 1, "socket.getaddrinfo": 0, "socket.gethostbyname": 0}
"""Which argument of an event is the address."""
HERE = {None, "", "localhost", "0.0.0.0", "::", "::1", socket.gethostname()}


def tell(*words):
    with open(os.environ["NLSR_WATCHED"], "a", encoding="utf-8") as log:
        print(*words, file=log)


def watch(event, arguments):
    if event not in WHERE:
        return
    address = arguments[WHERE[event]]
    if event == "socket.connect" and (isinstance(address, str | bytes) or arguments[0].type == socket.SOCK_DGRAM):
        return  # to a file; or nothing is sent
    host = address[0] if isinstance(address, tuple) else address
    host = host.decode() if isinstance(host, bytes) else host
    if host not in HERE and not host.startswith("127."):
        tell("reached for", host, "by", event)
        raise PermissionError(f"{host} is another machine")


def own_address():
    """The address by which this machine knows itself, if it has a network. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect(("192.0.2.1", 9))
        except OSError:
            return None
        return asked.getsockname()[0]


HERE.add(own_address())
sys.addaudithook(watch)
tell("watched", *sys.orig_argv)
