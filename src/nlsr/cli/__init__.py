"""The command `nlsr`: one thin file per subcommand. Nothing heavy is imported before a subcommand runs."""

import signal
import sys
from typing import Annotated

import typer

from nlsr.cli import evaluate, train, upscale
from nlsr.errors import NlsrError, UsageError

app = typer.Typer(
    name="nlsr",
    help="Enlarge images with networks in which every pixel draws on similar pixels anywhere in the image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("upscale")(upscale.upscale)
app.command("evaluate")(evaluate.evaluate)
app.command("train")(train.train)


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
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "nlsr")
    try:
        app()
    except NlsrError as error:
        _fail(f"{command}: {error}", 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt as interruption:
        _fail(f"{command}: interrupted" + (f"; {interruption}" if str(interruption) else ""), 130)
    except MemoryError:
        _fail(f"{command}: out of memory; try a smaller --tile", 1)


def _fail(message: str, code: int) -> None:
    print("\\n".join(message.splitlines()), file=sys.stderr)
    sys.exit(code)
