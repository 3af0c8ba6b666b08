"""The command `nlsr`: one thin file per subcommand. Nothing heavy is imported before a subcommand runs."""

import os
import sys
from typing import Annotated

import typer

from nlsr import interrupts
from nlsr.cli import benchmark, data, evaluate, explain, export, serve, streams, train, upscale, weights
from nlsr.cli.notes import notes_in_one_line
from nlsr.errors import Interrupted, NlsrError, RecipeError, UsageError, in_command

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
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.command("upscale", cls=upscale.Command)(upscale.upscale)
app.command("evaluate")(evaluate.evaluate)
app.command("explain")(explain.explain)
app.command("serve")(serve.serve)
app.command("train")(train.train)
app.command("export")(export.export)
app.add_typer(data.app, name="data")
app.add_typer(weights.app, name="weights")
app.add_typer(benchmark.app, name="benchmark")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"nlsr {version('nlsr')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit code 2 if asked wrongly, 1 if something failed, each said in one line."""
    # Large pages, where the system has them on request: 10 to 15 % less time. torch asks when it is imported.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    interrupts.listen()
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "nlsr")
    with in_command(), streams.forgiving() as output:
        code, message = _outcome(command)
        _say(command, message)
        output.flush()
        if code == 0 and output.error is not None:
            code = 1
            _say(command, streams.complaint(output))
    sys.exit(code)


def _outcome(command: str) -> tuple[int, str]:
    """The exit code, and what is to be said of it."""
    try:
        with notes_in_one_line(command):
            code = app(prog_name="nlsr", standalone_mode=False) or 0
        if code == 130:  # how typer returns from ctrl-C
            raise KeyboardInterrupt
        return code, ""
    except NlsrError as error:
        if isinstance(error, Interrupted):
            return interrupts.exit_code(), str(error)
        return 2 if isinstance(error, UsageError | RecipeError) else 1, str(error)
    except CommandError as error:
        # Without any words the help was shown.
        return error.exit_code, error.format_message() + _hint() if sys.argv[1:] else ""
    except (KeyboardInterrupt, typer.Abort):
        return interrupts.exit_code(), "interrupted"
    except (MemoryError, RuntimeError) as error:
        from nlsr.memory import out_of_memory

        if not out_of_memory(error):
            raise
        return 1, f"out of memory{LESS.get(command, '')}"


def _hint() -> str:
    """For a file whose name was taken for options."""
    dashed = (word for word in sys.argv[1:] if word.startswith("-") and word != "-" and os.path.lexists(word))
    return next((f"; the file of this name is given as ./{word}" for word in dashed), "")


def _say(command: str, message: str) -> None:
    if message.strip():
        print("\\n".join(f"{command}: {message}".splitlines()), file=sys.stderr)
