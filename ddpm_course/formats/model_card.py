"""The README of a model folder: how to load it, and what is known about it."""

CARD = """---
library_name: {library}
tags: [diffusion, ddpm]
---
# {title}

A denoising diffusion model that draws images of shape {shape}, made with `ddpm_course`.

```python
{code}
```
{sections}"""

_CODE = """from ddpm_course.hub import load_pretrained
from ddpm_course.ddim import ddim_sample

images = ddim_sample(load_pretrained({title!r}), 16, steps=50, seed=0)  # float32 in [-1, 1]"""

CARD_FACTS = {"Data and licence": ("data", "licence of the data", "licence of the weights"),
              "Hyper-parameters": ("training",), "Metrics, with uncertainty and seeds": ("metrics",),
              "Limits": ("limits",)}


def model_card(about: dict, parameters: int, title: str, facts: dict, *, library: str = "ddpm_course",
               code: str = _CODE) -> str:
    """
    The README of a model folder: how to load it, then `facts` in four tables.

    `about`: what `describe` says of the model; `parameters`: how many it has.

    The facts asked for are those in `CARD_FACTS`; what is missing is "not stated", and others stand at the end. Give
    metrics with their uncertainty, the number of samples, and the seeds.
    """
    known, others = {name for names in CARD_FACTS.values() for name in names}, dict(facts)
    tables = {head: {name: facts.get(name, "not stated") for name in names} for head, names in CARD_FACTS.items()}
    tables["Hyper-parameters"] = _hyper_parameters(about, parameters) | tables["Hyper-parameters"]
    tables["More"] = {name: value for name, value in others.items() if name not in known}
    sections = "".join(f"\n## {head}\n\n| | |\n|---|---|\n" + "".join(map(_row, rows, rows.values()))
                       for head, rows in tables.items() if rows)
    return CARD.format(title=title, shape=tuple(about["shape"]), library=library, code=code.format(title=title),
                       sections=sections)


def _hyper_parameters(about: dict, parameters: int) -> dict:
    "What the model itself says about how it was made."
    schedule = about["schedule"]
    name = schedule.get("name", "its own betas") + schedule.get("zero_terminal_snr", False) * ", zero terminal SNR"
    T = schedule["num_timesteps"] if "num_timesteps" in schedule else len(schedule["betas"])
    return {"parameters": f"{parameters:,}", "prediction": about["prediction"], "schedule": f"{name}, T = {T}",
            **about["architecture"]}


def _row(name: str, value) -> str:
    "A line of a table in Markdown; what would end the cell or the line is masked."
    return "| {} | {} |\n".format(*(" ".join(str(x).replace("|", "\\|").split()) for x in (name, value)))
