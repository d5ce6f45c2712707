"""The README of a model folder: how to load it, and what is known about it."""
import math
import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath

CARD = """---
library_name: {library}
tags: [diffusion, ddpm]
---
# {title}

A denoising diffusion model that draws images of shape {shape}, {values}, made with `ddpm_course`.

```python
{code}
```
{sections}"""

CODE = """from ddpm_course.hub import load_pretrained
from ddpm_course.ddim import ddim_sample

images = ddim_sample(load_pretrained({name}), 16, steps=50, seed=0)  # float32, {values}"""

CARD_FACTS = {"Data and licence": ("data", "licence of the data", "licence of the weights"),
              "Hyper-parameters": ("training",), "Metrics, with uncertainty and seeds": ("metrics",),
              "Limits": ("limits",)}

# What Markdown or HTML would take for a command. Within words "_" is none, and names and addresses stay readable.
MARKUP = re.compile(r"[\\`*\[<|~$]|&(?=#?\w+;)|_(?![^\W_])|(?<![^\W_])_|#$")


def model_card(about: dict, parameters: int, title: str, facts: dict, *, library: str = "ddpm_course",
               code: str = CODE) -> str:
    """
    The README of a model folder: how to load it, then `facts` in four tables, letter by letter.

    `about`: what `describe` says of the model; `parameters`: how many it has; `title`: the name of its folder.

    The facts asked for are those in `CARD_FACTS`; what is missing is "not stated", and others stand at the end. Give
    metrics with their uncertainty, the number of samples, and the seeds.
    """
    known = {name for names in CARD_FACTS.values() for name in names}
    tables = {head: {name: facts.get(name, "not stated") for name in names} for head, names in CARD_FACTS.items()}
    tables["Hyper-parameters"] = _hyper_parameters(about, parameters) | tables["Hyper-parameters"]
    tables["More"] = {name: value for name, value in facts.items() if name not in known}
    sections = "".join(f"\n## {head}\n\n| | |\n|---|---|\n" + "".join(map(_row, rows, rows.values()))
                       for head, rows in tables.items() if rows)
    values = "values in [{:g}, {:g}]".format(*about["clip"]) if about["clip"] else "values without fixed bounds"
    name = repr(title).replace("`", r"\x60")  # in Python the same name, and no end of the code
    return CARD.format(title=masked(title), shape=tuple(about["shape"]), library=library, values=values,
                       code=code.format(name=name, values=values), sections=sections)


def _hyper_parameters(about: dict, parameters: int) -> dict:
    "What the model itself says about how it was made."
    schedule, classes = about["schedule"], about["classes"]
    name = schedule.get("name", "its own betas") + schedule.get("zero_terminal_snr", False) * ", zero terminal SNR"
    T = schedule["num_timesteps"] if "num_timesteps" in schedule else len(schedule["betas"])
    return {"parameters": f"{parameters:,}", "prediction": about["prediction"], "schedule": f"{name}, T = {T}",
            "variance of DDPM's steps": about["variance"], **about["architecture"],
            **({"classes": ", ".join(classes)} if classes else {})}


def _row(name: str, value) -> str:
    "A line of a table in Markdown."
    return f"| {masked(name)} | {masked(value)} |\n"


def masked(value) -> str:
    "Any value as one line of Markdown that shows it letter by letter."
    return MARKUP.sub(r"\\\g<0>", " ".join(readable(str(value)).split()))


def readable(text: str) -> str:
    r"Text that any file can hold: the bytes of a name that is not UTF-8 are spelt out, as \udce9 for the byte e9."
    return text.encode("utf-8", "backslashreplace").decode()


def plain_facts(facts: Mapping | None) -> dict:
    "What is known about a model, as `plain` has it, or nothing."
    if not isinstance(facts, (Mapping, type(None))):
        raise ValueError(f"facts is {facts!r:.80}, expected a dictionary")
    return plain("facts", facts or {})


def plain(name: str, value):
    """
    A value as JSON can hold it: text, numbers, True, False, None, lists, and dictionaries whose keys are text.

    Numbers and arrays of NumPy and tensors become numbers and lists. Of an absolute path, which is private, only the
    last part is kept. `ValueError`, with the name, for anything else and for numbers that are not finite.
    """
    if isinstance(value, (str, os.PathLike)):
        paths = [kind(str(value)) for kind in (PurePosixPath, PureWindowsPath)]
        return readable(next((path.name for path in paths if path.is_absolute() and path.name), str(value)))
    if isinstance(value, Mapping):
        if strange := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"{name} has the key {strange[0]!r:.80}, expected text")
        return {readable(key): plain(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if value is None or isinstance(value, (bool, int)) or isinstance(value, float) and math.isfinite(value):
        return value
    if hasattr(value, "tolist"):  # NumPy and torch
        return plain(name, value.tolist())
    raise ValueError(f"{name} is {value!r:.80}, expected text, a finite number, True, False, None, or a list or "
                     f"dictionary of these")
