"""The console script: commands in groups, and errors as one line."""

from __future__ import annotations

import os
import re
import sys
import time
from importlib import metadata
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from couplet.cli.everyday import adopt, import_, init, run, watch
from couplet.cli.inspection import check, recipes, settings, show, verify, why
from couplet.cli.models import export, generate, score
from couplet.cli.pipeline import commands
from couplet.errors import Stopped, UserError
from couplet.plan.code import check_running
from couplet.process import rank

RANK_PATIENCE = 10.0
"""Seconds before a process other than the first one prints its error."""

ELSEWHERE = {
    "--live": " It is now: --track dvc=FOLDER.",
    "--tensorboard": " It is now: --track tensorboard=FOLDER.",
    "--config": " It is one of snakemake; here: --params FILE, --scale NAME, --set KEY=VALUE.",
    "-S": " It is one of `dvc exp run`; here: --set KEY=VALUE.",
}
"""Advice for options of the engines, by name."""

app = typer.Typer(
    name="couplet",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, sample and compare consistency models, stage by stage.",
    pretty_exceptions_enable=False,
)

for _name, _command in commands():
    app.command(_name, rich_help_panel="Pipeline")(_command)
for _command in (init, run, watch, adopt, import_, generate, score, export):
    app.command(_command.__name__.rstrip("_"), rich_help_panel="Everyday")(_command)
for _command in (check, settings, show, why, verify, recipes):
    app.command(rich_help_panel="Inspection")(_command)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"couplet {metadata.version('couplet-cm')}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        check_running(Path())


def main() -> None:
    """Run a command.

    An error that a user can cause becomes one line on stderr and exit code 2, a signal that stopped a run one
    line and exit code 75.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files may hold any bytes
    try:
        code = app([_expanded(argument) for argument in sys.argv[1:]], standalone_mode=False)
    except UserError as error:
        _fail(str(error))
    except Stopped as stop:
        if rank() == 0:
            print(f"couplet: {stop}", file=sys.stderr)
        sys.exit(os.EX_TEMPFAIL)
    except OSError as error:
        _fail(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except MemoryError as error:
        _fail(f"not enough memory: {error or 'for what was asked'}")
    except typer.Abort:
        sys.exit(130)
    except Exception as error:
        # Usage errors of click, whichever copy of click typer carries.
        if not hasattr(error, "format_message"):
            raise
        hint = ELSEWHERE.get(getattr(error, "option_name", ""), "")
        _fail(error.format_message() + hint)
    sys.exit(code if isinstance(code, int) else 0)


def _expanded(argument: str) -> str:
    """An argument with the home folder for `~`, also in `--out=~/x`, where shells leave it."""
    option, tilde, rest = argument.partition("~")
    if not tilde or rest[:1] not in ("", "/") or not (option == "" or re.fullmatch(r"--[\w-]+=", option)):
        return argument
    return f"{option}{Path(f'~{rest}').expanduser()}"


def _fail(message: str) -> None:
    if number := rank():
        # The first process prints an error that it meets too, and the others then end.
        time.sleep(RANK_PATIENCE)
        message = f"process {number}: {message}"
    print(f"couplet: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(2)
