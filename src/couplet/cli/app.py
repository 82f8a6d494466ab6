"""The console script: commands in groups, and errors as one line."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable
from importlib import metadata
from inspect import cleandoc
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from couplet.cli.everyday import adopt, import_, init, run, watch
from couplet.cli.inspection import check, compare, recipes, settings, show, verify, why
from couplet.cli.models import export, generate, score
from couplet.cli.pipeline import commands
from couplet.errors import Lost, Stopped, UserError
from couplet.plan.code import check_running
from couplet.process import first_here, rank

RANK_PATIENCE = 10.0
"""Seconds before a process other than the first one prints its error."""

ELSEWHERE = {
    "--live": "; it is now --track dvc=FOLDER",
    "--tensorboard": "; it is now --track tensorboard=FOLDER",
    "--config": "; it is one of snakemake, here --params FILE, --scale NAME, --set KEY=VALUE",
    "-S": "; it is one of `dvc exp run`, here --set KEY=VALUE",
}
"""Advice for options of the engines, by name."""

EXAMPLES = {
    "init": "couplet init my-project",
    "run": "couplet run --coupling vae --set couplings.vae.kl_weight=30 --steps 200 --out adhoc/x",
    "watch": "couplet watch adhoc/x/train --track tensorboard=logs",
    "adopt": "couplet adopt adhoc/x/train --data adhoc/x/data",
    "import": "couplet import network-snapshot.pkl --out model.safetensors",
    "generate": "couplet generate adhoc/x --count 16 --nfe 2 --out samples.png",
    "score": "couplet score samples.npz --reference data/cifar10",
    "export": "couplet export adhoc/x --to my-model --name jane/my-model --license mit",
    "settings": "couplet settings --coupling vae --scale smoke",
    "show": "couplet show results/table1.csv",
    "compare": "couplet compare adhoc/x adhoc/y",
    "why": "couplet why results/table1.csv --row vae,nfe=2,seed=1",
    "verify": "couplet verify results",
    "recipes": "couplet recipes gc/cifar10-gc-ict-ve-generator",
    "prepare": "couplet prepare my-set --from FOLDER --resolution 32",
    "train": "couplet train --coupling vae --data x/data --out x/train",
    "probe": "couplet probe transport --train x/train --data x/data --out x/transport.csv",
}
"""A call of each command, for its help; docs/pipeline.md has the stages."""

app = typer.Typer(
    name="couplet",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, sample and compare consistency models, stage by stage.",
    pretty_exceptions_enable=False,
)

_PANELS: dict[str, list[Callable[..., None]]] = {
    "Pipeline": commands(),
    "Everyday": [init, run, watch, adopt, import_, generate, score, export],
    "Inspection": [check, settings, show, compare, why, verify, recipes],
}
for _panel, _commands in _PANELS.items():
    for _command in _commands:
        _name, _paragraphs = _command.__name__.rstrip("_"), cleandoc(_command.__doc__ or "").split("\n\n")
        app.command(
            _name,
            help="\n\n".join(" ".join(each.split()) for each in _paragraphs),  # else lines break twice
            epilog=f"Example: {EXAMPLES[_name]}" if _name in EXAMPLES else None,
            rich_help_panel=_panel,
        )(_command)


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

    An error that a user can cause becomes one line on stderr and exit code 2, a signal that stopped a run or
    the loss of another process one line and exit code 75.
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
    except Lost as lost:
        if first_here():
            print(f"couplet: {lost}", file=sys.stderr)
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
        if type(error).__name__ == "MissingParameter":
            hint = f" {getattr(getattr(error, 'param', None), 'help', None) or ''}"
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
