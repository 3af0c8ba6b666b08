"""The command `nlsr`: one thin file per subcommand. Nothing heavy is imported before a subcommand runs."""

import os
import signal
import sys
from typing import Annotated

import typer

from nlsr.cli import benchmark, data, evaluate, explain, train, upscale, weights
from nlsr.cli.notes import notes_in_one_line
from nlsr.errors import Interrupted, NlsrError, RecipeError, UsageError

CommandError = typer.BadParameter.__mro__[2]
"""What typer raises for a command line that it cannot understand."""

LESS = {
    "upscale": "; take smaller pieces with --tile or --memory",
    "evaluate": "; take smaller pieces with --tile",
    "train": "; take fewer patches at once (training.accumulate, batch_size) or smaller ones (patch_size)",
}
"""What needs less memory, for people whose memory ran out."""

app = typer.Typer(
    name="nlsr",
    help="Enlarge images with networks in which every pixel draws on similar pixels anywhere in the image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("upscale")(upscale.upscale)
app.command("evaluate")(evaluate.evaluate)
app.command("explain")(explain.explain)
app.command("train")(train.train)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(benchmark.app, name="benchmark")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"nlsr {version('nlsr')}")
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


def main() -> None:
    """Run the command line: exit code 2 if asked wrongly, 1 if something failed, each said in one line."""
    signal.signal(signal.SIGTERM, _interrupt)
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "nlsr")
    try:
        with notes_in_one_line(command):
            sys.exit(app(standalone_mode=False) or 0)
    except NlsrError as error:
        code = {UsageError: 2, RecipeError: 2, Interrupted: 130}.get(type(error), 1)
        _fail(f"{command}: {error}", code)
    except CommandError as error:
        _fail(f"{command}: {error.format_message()}" if sys.argv[1:] else "", error.exit_code)  # help was shown
    except (KeyboardInterrupt, typer.Abort):
        _fail(f"{command}: interrupted", 130)
    except (MemoryError, RuntimeError) as error:
        from nlsr.upscale.memory import out_of_memory

        if not out_of_memory(error):
            raise
        _fail(f"{command}: out of memory{LESS.get(command, '')}", 1)
    except BrokenPipeError:
        os._exit(1)  # whoever read our output has gone; flushing at exit would fail again


def _interrupt(*_: object) -> None:
    """Being terminated is being interrupted: temporary files are removed."""
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    if message.strip():
        print("\\n".join(message.splitlines()), file=sys.stderr)
    sys.exit(code)
