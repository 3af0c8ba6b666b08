"""Requests for a worker under test."""

import os
import time


def fail():
    raise RuntimeError("no such thing")


REQUESTS = {"sleep": time.sleep, "add": lambda a, b: a + b, "die": lambda: os._exit(9), "fail": fail}
