"""The commands: what is asked for, in what order it is done, and how it ends. What they do lies in other modules."""

from __future__ import annotations

import json
import os
import re
import select
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from repro import targets
from repro.errors import INTERRUPTED, UsageError, explain, suggestion
from repro.evidence.claims import RUN_SCALES
from repro.places import Places

if TYPE_CHECKING:
    from repro.evaluate import Request

Command = TypeVar("Command", bound=Callable[..., Any])
COMMAND = "python -m repro"
AT_LEAST_ONE = click.IntRange(min=1)
MOST_SEEDS = 10_000


class Folder(click.Path):
    """A folder's path; not the empty text that a variable without a value leaves."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            raise UsageError("an empty folder name: name a folder, or leave the option out")
        return super().convert(value, param, ctx)


PATH = Folder(path_type=Path)


def main(arguments: Sequence[str], places: Places | None = None) -> int:
    """Run one command; gives its exit code. Every error is one line on stderr, with a traceback after `--debug`."""
    try:
        return _called(arguments, places or Places())
    except (BrokenPipeError, SystemExit):  # click makes the one of the other
        # A reader of the output has seen enough; where nobody reads messages any more, work is broken off.
        gone = [stream for stream in (sys.stdout, sys.stderr) if _is_broken(stream)]
        if not gone:
            raise
        for stream in gone:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return INTERRUPTED if sys.stderr in gone else 0


def _called(arguments: Sequence[str], places: Places) -> int:
    try:
        code = cli.main(list(arguments), prog_name=COMMAND, standalone_mode=False, obj=places)
        sys.stdout.flush()
        return code or 0
    except click.ClickException as error:
        say(" ".join(error.format_message().split()))
        return UsageError.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("interrupted; work is saved: give the same command again to go on")
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        code, line = explain(error)
        if "--debug" in arguments:
            traceback.print_exc()
        say(line)
        return code


def _is_broken(stream: TextIO) -> bool:
    """Whether nobody reads it any more."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def say(line: str) -> None:
    """One line on stderr."""
    click.echo(f"repro: {line}", err=True)


class Suite(click.Group):
    """A group whose commands are joined by the names of targets: `TARGET ...` stands for `run TARGET ...`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(COMMAND, "TARGET [TARGET ...] [OPTIONS]")
        formatter.write_usage(COMMAND, "COMMAND [OPTIONS]")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Targets"):
            formatter.write_text(f"{', '.join(targets.names())}; all")
        super().format_commands(ctx, formatter)


@click.group(cls=Suite, invoke_without_command=True)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Do the published numbers hold? Every table and figure, judged and run again."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def debug(command: Command) -> Command:
    """The option that every command has; `main` looks for it."""
    return click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks.")(command)


def scale_option(help: str) -> Callable[[Command], Command]:
    """`--scale`, with a suggestion for an unknown one."""

    def known(ctx: click.Context, option: click.Parameter, scale: str | None) -> str | None:
        if scale is not None and scale not in RUN_SCALES:
            raise UsageError(f"no scale {scale!r}: {suggestion(scale, RUN_SCALES)}")
        return scale

    return click.option("--scale", callback=known, metavar="S", help=f"{help} ({', '.join(RUN_SCALES)}).")


def out_option(command: Command) -> Command:
    """`--out`: where this machine's records and renders go; the command gets it inside its `Places`."""

    def moved(ctx: click.Context, option: click.Parameter, out: Path | None) -> None:
        if out is not None:
            ctx.obj = replace(ctx.obj, out=out)

    option = click.option(
        "--out", type=PATH, callback=moved, expose_value=False, help="Folder for records and renders [runs]."
    )
    return option(command)


def seeds_option(command: Command) -> Command:
    """`--seeds`: how many."""
    number = click.IntRange(1, MOST_SEEDS)
    return click.option("--seeds", type=number, metavar="N", help="Number of seeds [the scale's].")(command)


def set_option(command: Command) -> Command:
    """`--set`, once for each setting that is changed."""

    def changes(ctx: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
        for text in texts:
            if not text.partition("=")[1]:
                raise UsageError(f"--set {text}: expected KEY=VALUE")
        keys = [text.partition("=")[0].strip() for text in texts]
        for key in keys:
            if keys.count(key) > 1:
                raise UsageError(f"--set {key}: given twice")
        return {key: text.partition("=")[2] for key, text in zip(keys, texts, strict=True)}

    help = "Change a setting, as in alpha_start=8; an unknown KEY names those there are."
    return click.option("--set", "changes", multiple=True, callback=changes, metavar="KEY=VALUE", help=help)(command)


def json_option(command: Command) -> Command:
    """`--json`: the answer for another program."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


# --- targets -------------------------------------------------------------------------------------------------------


def _shard(ctx: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    found = re.fullmatch("([0-9]+)/([0-9]+)", text)
    index, count = map(int, found.groups()) if found else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard {text}: expected i/n with i from 1 to n, like 1/4")
    return index, count


@cli.command(hidden=True)
@click.argument("names", nargs=-1, required=True, metavar="TARGET...")
@scale_option("Train what has no record at this scale")
@seeds_option
@click.option(
    "--workers", type=AT_LEAST_ONE, metavar="N", help="Units side by side, with a core each if several [all cores]."
)
@click.option("--backend", envvar="REPRO_BACKEND", help="Quantizer backend [automatic].")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--data-root", type=PATH, help="Folder of the data sets [REPRO_DATA, or the user's cache].")
@out_option
@click.option("--force", is_flag=True, help="Run recorded units too, anew; if broken off, go on.")
@click.option("--dry-run", is_flag=True, help="Only say what would run.")
@click.option("--limit", type=AT_LEAST_ONE, metavar="UNITS", help="Run at most so many units of a target.")
@click.option("--shard", default="1/1", callback=_shard, metavar="i/n", help="Run the i-th of n shares of the seeds.")
@set_option
@json_option
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def run(ctx: click.Context, names: tuple[str, ...], dry_run: bool, as_json: bool, **options: Any) -> int:
    """Judge what is recorded of each TARGET; with --scale, first train what is missing. Without, nothing is trained."""
    from repro import crew, evaluate

    request = evaluate.Request(**options)
    evaluate.check_device(request)
    with crew.joined(request.device, request.backend) as leads:
        return _run(ctx.obj, names, request, dry_run, as_json) if leads else 0


def _run(places: Places, names: tuple[str, ...], request: Request, dry_run: bool, as_json: bool) -> int:
    from repro import evaluate

    asked = evaluate.named(names, cli.commands)
    evaluate.check(asked, request)
    if dry_run:
        click.echo("\n".join(evaluate.outlook(target, request, places) for target in asked))
        return 0
    code, evaluations = 0, []
    for target in asked:
        evaluate.report_damage(target, request, places, say)
    for target in asked:
        code = max(code, evaluate.train(target, request, places, say))
        evaluations.append(evaluate.evaluate(target, request, places))
        if not as_json:
            click.echo("\n" * (len(evaluations) > 1) + evaluations[-1].summary().strip())
    if as_json:
        _print_json([evaluation.as_json() for evaluation in evaluations])
    return code


# --- commands ------------------------------------------------------------------------------------------------------


@cli.command("list")
@out_option
@json_option
@debug
@click.pass_context
def list_targets(ctx: click.Context, as_json: bool) -> None:
    """Targets, what each needs, and what is recorded."""
    from repro import evaluate, status

    overview = [evaluate.overview(targets.get(name), ctx.obj) for name in targets.names()]
    if as_json:
        _print_json(overview)
    else:
        header = ("target", "needs", "scales", "committed", "this machine", "title")
        click.echo(status.as_table(header, [[_words(one[key]) for key in header] for one in overview]))


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {text}" for key, text in value.items()) or "-"
    return (", ".join(value) or "-") if isinstance(value, list) else value


@cli.command("status")
@click.option("--check", is_flag=True, help="Compare with the baseline and the committed renders; exit 1 if different.")
@click.option("--accept-baseline", is_flag=True, help="Take today's verdicts and states as the baseline.")
@click.option("--format", "style", default="table", type=click.Choice(["table", "md", "json", "junit", "github"]))
@debug
@click.pass_context
def show_status(ctx: click.Context, check: bool, accept_baseline: bool, style: str) -> int:
    """Verdicts and states of every committed claim, counted."""
    from repro import status

    places: Places = ctx.obj
    judged = status.claims(places)
    if accept_baseline:
        status.write_baseline(places.baseline, judged)
    problems = status.check(places, judged) if check or style in ("junit", "github") else []
    click.echo(status.FORMATS[style](judged, problems).rstrip("\n"))
    if not check:
        return 0
    for problem in problems:
        say(str(problem))
    say(f"{len(problems)} differences" if problems else "everything committed follows from its records")
    return 1 if problems else 0


@cli.command()
@click.argument("target")
@scale_option("Accept this scale only")
@out_option
@debug
@click.pass_context
def accept(ctx: click.Context, target: str, scale: str | None) -> None:
    """Move this machine's finished records of TARGET into the committed evidence, and render from that.

    Committed records that TARGET plans no more are deleted.
    """
    from repro.accept import accept

    known = targets.get(target)
    if scale is not None and scale not in known.scales:
        raise UsageError(f"{target} is not built at scale {scale}; there is {', '.join(known.scales) or 'none'}")
    accept(ctx.obj, known, click.echo, scale)


@cli.command()
@click.argument("target")
@click.option("--effect", type=click.FloatRange(min=0, min_open=True), required=True, help="Difference to see, points.")
@click.option("--power", type=click.FloatRange(0.05, 0.999), default=0.8, show_default=True, help="Chance to see it.")
@seeds_option
@set_option
@out_option
@json_option
@debug
@click.pass_context
def plan(ctx: click.Context, target: str, effect: float, power: float, as_json: bool, **options: Any) -> None:
    """Seeds and hours that it takes to see an effect in TARGET, at the spread and speed of its records.

    For a pilot, repeat its --seeds and --set.
    """
    from repro import evaluate
    from repro.plan import as_text, plan

    known, request = targets.get(target), evaluate.Request(**options)
    evaluate.check([known], request)
    found = plan(ctx.obj, known, evaluate.units(known, request), effect, power)
    if as_json:
        _print_json([one._asdict() for one in found])
    else:
        click.echo(as_text(target, found, effect, power))


@cli.command()
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--data-root", type=PATH, help="Folder of the data sets [REPRO_DATA, or the user's cache].")
@debug
def data(names: tuple[str, ...], data_root: Path | None) -> None:
    """Fetch and verify data sets and weights ahead of time, by default all that can be fetched."""
    from repro import datasets

    for name in names:
        datasets.describe(name)
    for name in names or datasets.FETCHED:
        click.echo(f"{name}: verified in {datasets.fetch(name, data_root, say)}")


@cli.command()
@click.option("--network", default="efficientnet_lite0", show_default=True, help="A pretrained network.")
@click.option(
    "--method", default="percentile", show_default=True, help="Calibrator of inputs: max, percentile, entropy or mse."
)
@click.option(
    "--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Bit-width of weights and inputs."
)
@click.option(
    "--weights", type=click.Choice(["channel", "tensor"]), default="channel", show_default=True, help="Per what."
)
@click.option("--images", type=click.IntRange(2, 10_000), default=64, show_default=True, help="CIFAR-10 images to use.")
@click.option("--data-root", type=PATH, help="Folder of the data sets [REPRO_DATA, or the user's cache].")
@json_option
@debug
def calibrate(
    network: str, method: str, bits: int, weights: str, images: int, data_root: Path | None, as_json: bool
) -> None:
    """Post-training quantization of a pretrained network: ranges of its inputs, and what they cost it."""
    from backends import ENVIRONMENT_VARIABLE
    from repro import evaluate
    from repro.ptq import once

    evaluate.check_backend(os.environ.get(ENVIRONMENT_VARIABLE), "cpu")
    found = once.calibrated(once.Cell(network, bits, weights, method), images, data_root, say)
    if as_json:
        _print_json(found.as_json())
    else:
        click.echo(found.as_text())


@cli.command()
@json_option
@debug
def env(as_json: bool) -> None:
    """Versions and hardware, as every record keeps them."""
    from repro import hardware

    facts = {**hardware.provenance(), "cores": len(hardware.cores())}
    del facts["command"]
    if as_json:
        _print_json(facts)
    else:
        flat = {**facts.pop("versions"), **facts}
        click.echo("\n".join(f"{name}: {'none' if value is None else value}" for name, value in flat.items()))


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))
