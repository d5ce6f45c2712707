"""One table of what the benchmarks have found, with the goals beside the numbers: builds it into README.md.

    python benchmarks/table.py            writes it between the markers of benchmarks/README.md
    python benchmarks/table.py --check    exits with 1 where the README holds another

It reads what lies in benchmarks/results. A benchmark without results there has no rows, and a goal that waits for a
result is "not yet" met. "Met" compares the numbers themselves; their standard errors stand beside them.
"""
import dataclasses
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from ddpm_course.app.config import RECIPES, TrainConfig

HERE = Path(__file__).parent
BEGIN, END = "<!-- benchmarks/table.py begins -->", "<!-- benchmarks/table.py ends -->"
OTHERS = "tutorial", "lucidrains", "diffusers"
RECIPES_COMPARED = "ours", "ours-without-labels", *OTHERS  # by time_to_digits.py


class Row(NamedTuple):
    "A line of the table. `about`: the result that it comes from, for its date and machine."
    what: str
    ours: str
    beside: str
    about: dict
    goal: str = ""
    met: bool | None = None  # None: there is no goal, or what it is compared with is missing
    note: str = ""


def number(x: float) -> str:
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def pm(value: float, error: float) -> str:
    "A value and its standard error."
    digits = max(0, 1 - math.floor(math.log10(error))) if error else 3
    return f"{value:,.{digits}f} ± {error:.{digits}f}"


def listed(named: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in named.items())


def flat(settings) -> str:
    "Nested settings in one line."
    if isinstance(settings, dict):
        return ", ".join(f"{k} ({flat(v)})" if isinstance(v, dict) else f"{k} {flat(v)}" for k, v in settings.items())
    return "(" + ", ".join(map(flat, settings)) + ")" if isinstance(settings, list) else str(settings)


def as_ours(settings: dict) -> str:
    "Settings of `TrainConfig`, by what differs from its defaults."
    own = json.loads(json.dumps(dataclasses.asdict(TrainConfig())))
    changed = {k: v for k, v in settings.items() if k not in ("steps", "device") and own.get(k, v) != v}
    return f"`TrainConfig({', '.join(f'{k}={v!r}' for k, v in changed.items())})`"


def time_to_digits(lines: list[dict]) -> Iterator[Row]:
    speed = {row["recipe"]: row for row in lines if row["kind"] == "speed"}  # the newest of each
    scores = {(row["recipe"], row["minutes"]): row for row in lines if row["kind"] == "score"}
    if "ours" in speed:
        rates = {name: number(row["images_per_second"]) for name, row in speed.items()}
        settings = (f"\n   - {name}: {row['parameters']:,} parameters, "
                    f"{as_ours(row['settings']) if name.startswith('ours') else flat(row['settings'])}"
                    for name, row in speed.items())
        yield Row("images a second of training", rates.pop("ours"), listed(rates), speed["ours"],
                  note=f"The settings:{''.join(settings)}")

    def told(recipe, minutes, key):
        score = scores[recipe, minutes]["scores"][key]
        low, high = score["interval"]
        return f"{number(score['value'])} ({number(low)} to {number(high)})"
    for key, name in (("frechet", "Frechet distance"), ("kernel", "kernel distance")):
        first, last = scores.get(("ours", 1.0)), [other for other in OTHERS if (other, 10.0) in scores]
        if first and last:
            value = first["scores"][key]["value"]
            best = min(scores[other, 10.0]["scores"][key]["value"] for other in last)
            met = False if value >= best else True if len(last) == len(OTHERS) else None
            yield Row(f"{name} after 1 min, the others' after 10", told("ours", 1.0, key),
                      listed({other: told(other, 10.0, key) for other in last}), first, "lower than the others'", met,
                      "In minutes of two threads: each recipe makes as many updates as fit into them at its images a "
                      "second above, on two threads or on one. Of 500 digits each, with an interval that holds the "
                      "mean in 95 of 100 cases. The floor is the distance of as many real digits.")
        for minutes in sorted({minutes for _, minutes in scores}):
            there = {recipe: told(recipe, minutes, key) for recipe in RECIPES_COMPARED if (recipe, minutes) in scores}
            row = next(row for (_, m), row in scores.items() if m == minutes)
            yield Row(f"{name} after {minutes:g} min (floor {number(row['scores'][key]['floor'])})",
                      there.pop("ours", ""), listed(there), row)


SAME_ARITHMETIC = ("Ours and diffusers' have the same weights and do the same arithmetic, each in the memory format in "
                   "which its library makes it; lucidrains' has as many parameters, but another design and a third of "
                   "the arithmetic.")


def unet(found: dict) -> Iterator[Row]:
    by_name = {row["name"]: row for row in found["contestants"]}
    ours, theirs = by_name["ours, channels_last"], by_name.get("diffusers, contiguous")
    others = {"diffusers": theirs, "lucidrains": by_name.get("lucidrains")}
    others, about = {name: row for name, row in others.items() if row}, found | found["machine"]

    def beside(mode, key, form):
        return listed({name: form(row[mode][key]) for name, row in others.items()})
    for mode, name in (("train", "training"), ("forward", "forward")):
        if theirs:
            each = [a / b for a, b in zip(ours[mode]["rounds"], theirs[mode]["rounds"])]
            error = 1.25 * statistics.stdev(each) / len(each) ** 0.5  # of their median, as for a normal distribution
            ratio = found["ours_over_diffusers"]["as shipped"][mode]
            yield Row(f"{name}: images a second", f"{number(ours[mode]['images_per_second'])}, that is "
                      f"{pm(ratio, error)} of diffusers'", beside(mode, "images_per_second", number), about,
                      "at least diffusers'", ratio >= 1, SAME_ARITHMETIC)
        share = ours[mode]["share_of_matmul"]
        yield Row(f"{name}: share of a float32 matrix product's rate", f"{share:.0%}",
                  beside(mode, "share_of_matmul", "{:.0%}".format), about, "at least 85%", share >= 0.85)
        if ours[mode]["peak_memory_mb"]:
            yield Row(f"{name}: peak memory, MB", number(ours[mode]["peak_memory_mb"]),
                      beside(mode, "peak_memory_mb", number), about)


def training_loop(found: dict) -> Iterator[Row]:
    by_name = found["contestants"]
    ratios = {name: pm(by_name[name]["ratio"], by_name[name]["standard_error"])
              for name in ("ours", "lucidrains", "diffusers") if name in by_name}
    yield Row("time of an update, as a multiple of the network's alone", ratios.pop("ours"), listed(ratios), found,
              "at most 1.05", by_name["ours"]["ratio"] <= 1.05,
              f"One network, {found['settings']['size']}, in batches of {found['settings']['batch_size']}. lucidrains' "
              "`Trainer` and the loop of diffusers' example as they are shipped: both read the digits from PNG files.")


PLMS = ("Ours gives an image estimate at every step and checks that it is finite, which theirs does not: four of its "
        "fourteen operations on a batch of images. Theirs has twelve.")


def samplers(records: list[dict]) -> Iterator[Row]:
    found = records[-1]
    median = found["microseconds_a_step"]

    def net(name):
        draws = "DDPM" in name or "p_sample" in name
        return number(median[name] - draws * median["drawing noise"])
    for pair, share in found["share_of_theirs"].items():
        ours, theirs = pair.split(" / ")
        name, (library, _, _) = ours.removeprefix("ours: "), theirs.partition(": ")
        yield Row(f"{name}: microseconds a step, without the network and the noise",
                  f"{net(ours)}, that is {share:.2f} of {library}'", f"{library} {net(theirs)}", found,
                  f"at most {library}'", share <= 1, PLMS if name == "PLMS" else "")
    if memory := {name: used["1000"] / 1024 for name, used in found["memory_bytes"].items()}:
        kept = memory.pop("DDIM, all steps kept")
        yield Row("sampling: rise of memory from step 20 to 1,000, KiB, the largest of all samplers",
                  number(max(memory.values())), f"if all steps were kept {number(kept)}", found)


def busy(found: dict) -> Iterator[Row]:
    for others, rates in found["images_a_second_beside"].items():
        where = "alone on the machine" if others == "0" else f"beside {others} busy process{'es' * (others != '1')}"
        note = (f"Rounds of {found['seconds']:g} s, {found['rounds']} for each number. Threads that spin for a moment "
                "and then sleep leave the core to others. A busy machine gains by that; a quiet one may lose.")
        yield Row(f"training {where}: images a second", number(rates["package"]),
                  listed({"as torch sets its threads": number(rates["as torch"]), "passive": number(rates["passive"])}),
                  found, "at least as torch", rates["package"] >= rates["as torch"], note)


WORK = {  # series of cost.py: what grows; the unit of time's line, and how much of x it is; and that of memory's
    "batch": ("images in a batch", "an image", 1, "an image", 1),
    "image_size": ("side of the images", "1,000 pixels", 1000, "1,000 pixels", 1000),
    "no_attention": ("the same without attention", "1,000 pixels", 1000, "1,000 pixels", 1000),
    "width": ("channels of the first level", "1,000 of their square", 1000, "10 of them", 10),
    "in_memory": ("images in memory", "1,000 images", 1000, "1,000 images", 1000),
    "in_files": ("images in files", "1,000 images", 1000, "1,000 images", 1000)}


def cost(found: dict) -> Iterator[Row]:
    note = ("Processor time of one thread, and memory above that of a tiny training; batches of "
            f"{found['batch_size']} images of 28 x 28 pixels unless the row says so. A line has the smallest relative "
            "squares.")

    def row(name, key, what, factor, unit, size):
        fit, points = found["lines"][name][key], found["series"][name]
        label, (first, *_, last) = WORK[name][0], map(int, points)
        shown = "images_a_second" if key == "seconds_an_update" else key
        beside = listed({f"{int(x):,}:": number(point[shown]) for x, point in points.items()})
        slope = factor * size * fit["slope"]
        return Row(f"{label}, {first:,} to {last:,}: {what}",
                   f"{number(factor * fit['at_0'])} {'-' if slope < 0 else '+'} {number(abs(slope))} for {unit}, "
                   f"off by at most {fit['off']:.0%}", ("images a second " if shown != key else "") + beside, found,
                   "within 10% of a line", fit["off"] <= 0.1, note)
    for name in found["series"]:
        _, unit, size, memory_unit, memory_size = WORK[name]
        yield row(name, "seconds_an_update", "milliseconds an update", 1000, unit, size)
        yield row(name, "peak_mb", "memory, MB", 1, memory_unit, memory_size)
        if name == "in_files":
            yield row(name, "opening_seconds", "seconds to open them", 1, unit, size)
            alone = {int(x): point["workers_mb"] for x, point in found["series"][name].items()}
            yield Row(f"images in files, {max(alone):,}: MB that the two processes that decode hold alone",
                      number(alone[max(alone)]), f"of {min(alone):,} files {number(alone[min(alone)])}", found)


def over_seeds(rows: list[dict], score: str, *names: str) -> dict[tuple, tuple[float, float]]:
    "The mean of a score over the rows with equal `names`, and its standard error."
    groups = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in names), []).append(row[score])
    return {key: (statistics.mean(value for value, _ in found),
                  math.hypot(*(error for _, error in found)) / len(found)) for key, found in groups.items()}


def not_beaten(ours: tuple[float, float], others: list[tuple[float, float]]) -> bool:
    "Whether nobody's score is lower by more than two standard errors of the difference."
    return all(ours[0] - value <= 2 * math.hypot(ours[1], error) for value, error in others)


def lowest_and_highest(scores: dict[str, tuple[float, float]]) -> str:
    low, high = min(scores, key=scores.get), max(scores, key=scores.get)
    ends = {"lowest:": low} | ({"highest:": high} if high != low else {})
    return f"of {len(scores)}, " + "; ".join(f"{end} {name} {pm(*scores[name])}" for end, name in ends.items())


def ablation(found: dict) -> Iterator[Row]:
    config = TrainConfig()
    default = f"{config.schedule} {config.prediction} {config.weighting}", f"{config.ema:g}"
    for judged_on, updates in sorted({(row["judged_on"], row["updates"]) for row in found["rows"]}):
        rows = [row for row in found["rows"] if (row["judged_on"], row["updates"]) == (judged_on, updates)]
        scores = over_seeds(rows, "frechet", "cell", "ema")
        if not (ours := scores.pop(default, None)):
            continue
        names = {f"{cell}, {'last weights' if ema == 'none' else f'EMA {ema}'}": score
                 for (cell, ema), score in scores.items()}
        yield Row(f"{updates:,} updates: Frechet distance to {judged_on} digits "
                  f"(floor {pm(*found['floors'][judged_on]['frechet'])})",
                  f"{default[0]}, EMA {default[1]}: {pm(*ours)}", lowest_and_highest(names) if names else "",
                  found["machine"] | rows[-1], "" if judged_on == "test" else "none lower by two standard errors",
                  not_beaten(ours, scores.values()) if names else None,
                  "Schedule, prediction, weighting and average at equal images; means over the seeds.")


def sampler_ablation(found: dict) -> Iterator[Row]:
    rows = [row for row in found["rows"] if row["clip"] and row["judged_on"] == "training"]
    scores = over_seeds(rows, "frechet", "calls", "sampler")
    for calls in sorted({calls for calls, _ in scores}):
        names = {sampler: score for (n, sampler), score in scores.items() if n == calls}
        ours = names.pop("DDIM", None)
        yield Row(f"{calls} calls of the network: Frechet distance "
                  f"(floor {pm(*found['floors']['training']['frechet'])})", f"DDIM {pm(*ours)}" if ours else "",
                  lowest_and_highest(names) if names else "", found["machine"] | rows[-1],
                  note="Unguided digits of the bundled model. The program draws with DDIM in 50 steps.")


def emoji_search(found: dict) -> Iterator[Row]:
    def recipe(**settings):
        return dataclasses.replace(TrainConfig(**settings), steps=1, save_every=1, out="")
    program = recipe(data="emoji", **RECIPES["emoji"])
    for seconds in sorted({row["processor_seconds"] for row in found["rows"]}):
        rows = {row["variant"]: row for row in found["rows"] if row["processor_seconds"] == seconds}
        scores = {name: row["held_out_v_error"] for name, row in rows.items()}
        ours = [name for name, row in rows.items() if recipe(**found["base"] | row["changes"]) == program]
        yield Row(f"{seconds:g} s of one core: held-out error of v",
                  listed({name: pm(*scores.pop(name)) for name in ours}), lowest_and_highest(scores) if scores else "",
                  found["machine"] | found,
                  note="On the left the recipe of `ddpm_course train --data emoji`. All variants are judged on the "
                       "same images, so differences are known better than each number.")
    if run := found.get("program"):
        yield Row(f"`ddpm_course train --data emoji`, {run['steps']:,} updates, {number(run['images_per_second'])} "
                  "images a second: minutes until the samples are there", number(run["wall_seconds"] / 60),
                  f"held-out error of v {pm(*run['held_out_v_error'])}", run | run["machine"])


def emoji_model(found: dict) -> Iterator[Row]:
    for where in ("pixels", "blurred"):
        what = "samples nearer than the nearest 5% of held-out"
        yield Row(f"{where}: samples nearer to a training emoji than the nearest 5% of held-out emoji",
                  found[where][what].replace("+-", "±"), "emoji that were not learned 5%",
                  found | {"cpu": found["machine"]})


def memorise(found: dict) -> Iterator[Row]:
    for row in (found["rows"][0], found["rows"][-1]):
        yield Row(f"after {row['updates']:,} updates: how often a sample is nearer to a training emoji than a held-out "
                  "one is", pm(*row["copied"]), "a model that copies nothing 0.5",
                  found | found["machine"])


def runs(found: dict) -> Iterator[Row]:
    for name, run in found.items():
        loss = run["validation loss, averaged and raw"][-1][1]
        yield Row(f"{name}, {run['updates']:,} updates: seconds of one core", number(run["seconds"]),
                  f"validation loss {number(loss)}", run | run["machine"])


def sliders(found: dict) -> Iterator[Row]:
    times = {f"{row['chapter']}, {row['slider']}": row["milliseconds"] for row in found["rows"]}
    slowest = max(times, key=times.get)
    yield Row("the slowest slider: milliseconds until its picture is another, median", number(times[slowest]),
              f"{slowest}; the median of all {len(times)} sliders {number(statistics.median(times.values()))}", found,
              "at most 150", times[slowest] <= 150, "In JupyterLab and Chromium, on a machine that does nothing else.")


class Source(NamedTuple):
    "A file of results, what it is called in the table, the script that writes it, and what makes its rows."
    file: str
    title: str
    script: str
    rows: Callable[..., Iterator[Row]]


SOURCES = (
    Source("time_to_digits.jsonl", "time to digits", "time_to_digits.py", time_to_digits),
    Source("unet.json", "the paper's UNet, 35.7 M parameters", "unet.py", unet),
    Source("unet_compiled.json", "the same, compiled", "unet.py", unet),
    Source("train.json", "the training loop", "train.py", training_loop),
    Source("samplers.json", "samplers beside the network", "samplers.py", samplers),
    Source("busy.json", "a busy machine", "busy.py", busy),
    Source("cost.json", "cost as work grows", "cost.py", cost),
    Source("sliders.json", "sliders in a browser", "sliders.py", sliders),
    Source("ablation.json", "what matters in a recipe", "ablation.py", ablation),
    Source("sampler_ablation.json", "what matters in sampling", "sampler_ablation.py", sampler_ablation),
    Source("emoji_search.json", "the recipe for emoji", "emoji_search.py", emoji_search),
    Source("emoji_model.json", "the bundled emoji model", "../scripts/bundle_emoji.py", emoji_model),
    Source("memorise.json", "learning 200 emoji by heart", "memorise.py", memorise),
    Source("runs.json", "two runs, watched", "watch_run.py", runs),
)


def read(file: Path):
    text = file.read_text(encoding="utf-8")
    return list(map(json.loads, text.splitlines())) if file.suffix == ".jsonl" else json.loads(text)


def where(about: dict) -> str:
    "Date, machine and versions of a result."
    versions = {name: version for name, version in about.get("versions", {}).items() if version and name != "python"}
    parts = [about["date"], about["gpu"] if about.get("gpu") else about["cpu"],
             f"{about['threads']} thread{'s' * (about['threads'] > 1)}" if "threads" in about else "",
             *(f"{name} {version}" for name, version in versions.items())]
    return ", ".join(part for part in parts if part)


def build(results: Path) -> str:
    "The table in Markdown, the notes, and what was measured when and where."
    found = {source: list(source.rows(read(results / source.file)))
             for source in SOURCES if (results / source.file).is_file()}
    rows = [row for part in found.values() for row in part]
    notes, places = ({text: place for place, text in enumerate(dict.fromkeys(texts), 1)} for texts in (
        [row.note for row in rows if row.note], [where(row.about) for row in rows]))
    lines = ["| measured | ours | beside it | goal | met | when and where |", "|---|---|---|---|---|---|"]
    for source, part in found.items():
        lines.append(f"| **[{source.title}]({source.script})** | | | | | |")
        for row in part:
            met = {True: "yes", False: "no", None: "not yet" if row.goal else ""}[row.met]
            note = f" [{notes[row.note]}]" if row.note else ""
            cells = row.what + note, row.ours, row.beside, row.goal, met, chr(96 + places[where(row.about)])
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *(f"{place}. {text}" for text, place in notes.items())]
    lines += ["", *(f"- {chr(96 + place)}: {text}" for text, place in places.items())]
    return "\n".join(lines)


def with_table(readme: str, table: str) -> str:
    "The README with this table between its markers."
    if not re.search(f"{BEGIN}.*{END}", readme, re.S):
        raise ValueError(f"the README lacks {BEGIN} or, after it, {END}")
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{table}\n\n{END}", readme, flags=re.S)


def main() -> int:
    file = HERE / "README.md"
    readme = file.read_text(encoding="utf-8")
    built = with_table(readme, build(HERE / "results"))
    if "--check" in sys.argv and built != readme:
        print("the table is not what benchmarks/results hold; run: python benchmarks/table.py", file=sys.stderr)
        return 1
    file.write_text(built, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
