"""The program `ddpm_course`: what is typed, read; what went wrong, in one line. Torch is loaded for a command only."""
import dataclasses
import dis
import itertools
import os
import signal
import sys
import traceback
from pathlib import Path

from .. import __version__
from .config import RECIPES, TrainConfig
from .options import CONFIGS, did_you_mean, read_options, saved_config
from .terminal import open_missing_streams, say

USAGE = """usage: ddpm_course {train,sample,info,evaluate} [options]

  train     train a diffusion model on images and leave a run folder
  sample    draw images with a trained model
  info      say what a run was trained on and where it stands, or what a model is
  evaluate  say how good a model's images are, with intervals, beside real ones

`ddpm_course train --help` explains every option. `ddpm_course train --config FILE` takes options from a JSON file, such
as the config.json of a run; what is said on the command line comes on top. `ddpm_course --version` says the version."""

ISSUES = "https://github.com/ddpm-course/ddpm_course/issues"


def free_folder(wanted: str) -> str:
    "The folder itself, or where it holds something the first of folder-2, folder-3, ... that does not exist."
    path = Path(wanted)
    if not path.exists() or path.is_dir() and not any(path.iterdir()):
        return wanted
    return next(name for n in itertools.count(2) if not Path(name := f"{wanted}-{n}").exists())


def train_config(given: dict) -> TrainConfig:
    """
    The configuration of a run. Options that are not given come from the file after `--config`, for a run that is
    resumed from its own configuration, and else from the defaults.
    """
    file = given.pop("config", None)
    if file == "":
        raise ValueError("--config is given without a file, expected the path of a JSON file")
    config = TrainConfig(**{**(dataclasses.asdict(saved_config(file)) if file else RECIPES.get(given.get("data"), {})),
                            **given})
    if config.resume and not file and (own := Path(config.out) / "config.json").is_file():
        config = dataclasses.replace(saved_config(own), **{"out": config.out, **given})
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1  # processes, each of which could find another folder
    if config.resume or "out" in given or several:
        return config
    if (out := free_folder(config.out)) != config.out:
        say(f"{config.out} exists already, so this run is written to {out}; to go on with the old one: "
            f"ddpm_course train --resume --out {config.out}", "stderr")
    return dataclasses.replace(config, out=out)


def is_refusal(error: Exception) -> bool:
    "Whether an error was meant for the user: a `raise` of this package, or what the disk or the network answered."
    if isinstance(error, OSError) and error.errno is not None:
        return True
    last = error.__traceback__
    while last.tb_next:
        last = last.tb_next
    ours = (last.tb_frame.f_globals.get("__name__") or "").startswith("ddpm_course.")
    raised = dis.opname[last.tb_frame.f_code.co_code[last.tb_lasti]] == "RAISE_VARARGS"  # int("x") is not
    known = type(error).__module__.startswith("ddpm_course.")  # also where a worker process passes it on
    return isinstance(error, (ValueError, OSError, FloatingPointError)) and (ours and raised or known)


def explain(error: Exception, command: str, with_traceback: bool) -> int:
    "Say what went wrong, in one line where it was foreseen. Returns the exit code."
    full = (isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # of torch, on a graphics card
            or "can't allocate memory" in str(error))  # of torch, on the CPU
    foreseen = full or is_refusal(error)
    if with_traceback or not foreseen:
        say("".join(traceback.format_exception(error)).rstrip(), "stderr")
    if full:
        words = f"there is not enough memory; a smaller --batch-size needs less ({str(error).partition(chr(10))[0]})"
    else:
        words = error if foreseen else f"this is a fault of the program; please report the lines above at {ISSUES}"
    say(f"ddpm_course {command}: {words}", "stderr")
    return 2 if foreseen and isinstance(error, ValueError) else 1


def main(argv: list[str] | None = None) -> int:
    """
    The program `ddpm_course`. Returns the exit code: 0; 2 for a mistake in the input, which one line on stderr names;
    1 where training diverged, the disk refused, or the program itself is at fault; 128 and the signal's number after a
    signal, which is 130 after Ctrl-C and 143 after SIGTERM.
    """
    open_missing_streams()
    args = list(sys.argv[1:] if argv is None else argv)
    with_traceback = "--traceback" in args
    command, *args = [arg for arg in args if arg != "--traceback"] or [""]
    if command in ("-h", "--help", "--version"):
        say(f"ddpm_course {__version__}" if command == "--version" else USAGE)
        return 0
    if command not in CONFIGS:
        say(USAGE, "stderr")
        if command:
            say(f"\nddpm_course: {command!r} is unknown, expected one of {', '.join(CONFIGS)}"
                f"{did_you_mean(command, CONFIGS)}", "stderr")
        return 2
    try:
        given = read_options(command, args)
        config = train_config(given) if command == "train" else CONFIGS[command](**given)
        from .commands import COMMANDS  # loads torch, which takes seconds
        code, told = COMMANDS[command](config)
        if told:
            say(told)
        return code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Exception as error:
        return explain(error, command, with_traceback)
    finally:
        distributed = sys.modules.get("torch.distributed")
        if distributed and distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()  # several processes worked together
