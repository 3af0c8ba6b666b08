"""Being stopped from outside: by ctrl-C, by the system that ends a process, by a terminal that is closed."""

import signal

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has no SIGHUP, and only Windows has the last
_received: int = signal.SIGINT


def stop_signals() -> tuple[signal.Signals, ...]:
    """The signals of this system that ask a process to stop, without those that it was started to ignore.

    Who starts a command with `nohup` wants it to outlive the terminal; a shell that starts it with `&` lets it ignore
    ctrl-C.
    """
    known = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    return tuple(number for number in known if signal.getsignal(number) != signal.SIG_IGN)


def listen() -> None:
    """From now on each of these signals interrupts like ctrl-C, so that temporary files are removed."""
    note(signal.SIGINT)
    for number in stop_signals():
        if number != signal.SIGINT:
            signal.signal(number, _interrupt)


def note(number: int) -> None:
    """Remember which signal it was; for whoever handles signals himself."""
    global _received  # noqa: PLW0603 - a process receives signals, not an object
    _received = number


def exit_code() -> int:
    """The exit code of a process that was stopped, as shells give it: 128 and the number of the signal."""
    return 128 + _received


def _interrupt(number: int, _: object) -> None:
    note(number)
    raise KeyboardInterrupt
