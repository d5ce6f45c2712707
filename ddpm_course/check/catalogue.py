"""All exercises, and what the reader has done of them."""
from . import (data, ddim, ddpm, embedding, evaluation, exact, fitting, forward, guidance, likelihood, objective,
               schedules, solvers, training, unet)
from .answers import ANSWERS
from .exercise import Exercise
from .record import recorded

MODULES = (data, forward, exact, objective, schedules, embedding, unet, ddpm, ddim, training, guidance, evaluation,
           likelihood, solvers, fitting)
EXERCISES = {thing.name: thing for module in MODULES for thing in vars(module).values() if isinstance(thing, Exercise)}


def progress() -> None:
    """
    Print what the reader has done so far, chapter by chapter, and on which day.

    Kept in `~/.ddpm_course/progress.json`, or in the file that the variable DDPM_COURSE_PROGRESS names.
    """
    days = recorded()
    steps = sorted([*((each.chapter, name) for name, each in EXERCISES.items()),
                    *((name.partition(" ")[0], name) for name in ANSWERS), ("10", "my_ddpm")], key=lambda step: step[0])
    for chapter, name in steps:
        mark, when = ("x", f"  {days[name]}") if name in days else (" ", "")
        print(f"[{mark}] {chapter}  {name.removeprefix(f'{chapter} ')}{when}")
    print(f"{sum(name in days for _, name in steps)} of {len(steps)} done")
