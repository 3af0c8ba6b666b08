"""What all tests share: shapes in signatures are checked while they run, commands run in this process, and work that
needs several processes runs in copies of it."""

import os
import signal
import socket
import sys
import traceback
import warnings

import beartype  # noqa: F401  # these before the hook, under which what modules import is compiled anew
import einops  # noqa: F401
import lightning  # noqa: F401
import pytest
import torch
from jaxtyping import install_import_hook

CHECKED = [
    "nlsr.attention",
    "nlsr.networks",
    "nlsr.evaluate",
    "nlsr.explain",
    "nlsr.images.alpha",
    "nlsr.images.colour",
    "nlsr.images.bicubic",
    "nlsr.train",
]

IN_A_TERMINAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
if hasattr(signal, "SIGHUP"):
    IN_A_TERMINAL[signal.SIGHUP] = signal.SIG_DFL

with install_import_hook(CHECKED, "beartype.beartype"):
    import nlsr.attention
    import nlsr.evaluate
    import nlsr.explain
    import nlsr.images
    import nlsr.networks
    import nlsr.train.data
    import nlsr.train.loop


@pytest.fixture(autouse=True)
def seeded():
    """Draws that a test does not care about are the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def signals():
    """Every test begins with the handlers that Python has in a terminal, also in a job whose shell told it to ignore
    interrupts, and leaves none of its own."""
    before = {number: signal.signal(number, handler) for number, handler in IN_A_TERMINAL.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def nlsr(monkeypatch, capsys):
    """nlsr("upscale", path, ...) -> (exit code, standard output, standard error), as a user would type it."""
    from nlsr.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["nlsr", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            main()
        out, err = capsys.readouterr()
        return exit.value.code, out, err

    return run


@pytest.fixture
def child():
    """child(work, **environment) -> exit status of a copy of this process that does some work and ends; negative if a
    signal killed it. With `wait=False` a function that waits for it."""
    started = []

    def run(work, wait=True, **environment):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch has threads, none of which is needed
            pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.environ.update(environment)
                torch.set_num_threads(1)
                work()
                status = 0
            except SystemExit as end:
                status = end.code
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        started.append(pid)

        def finish():
            started.remove(pid)
            return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

        return finish() if wait else finish

    yield run
    for pid in started:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


@pytest.fixture
def ranks(child):
    """ranks(work, count) does the same work in processes that torchrun might have started; returns exit statuses."""

    def run(work, count=2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        shared = dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
        shared |= dict(TORCHELASTIC_RUN_ID="test", GROUP_RANK="0", CUDA_VISIBLE_DEVICES="")
        waiting = [child(work, wait=False, RANK=str(i), LOCAL_RANK=str(i), **shared) for i in range(count)]
        return [finish() for finish in waiting]

    return run
