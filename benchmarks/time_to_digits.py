"""How good are the digits after 1 to 10 minutes on two CPU cores? Our recipe, and three that people use instead.

    python benchmarks/time_to_digits.py                  # speed, then all trainings: two hours on two quiet cores
    python benchmarks/time_to_digits.py speed            # two minutes of a quiet machine: updates a second of each
    python benchmarks/time_to_digits.py train ours       # the updates that fit into those minutes, on any machine
    python benchmarks/time_to_digits.py draw             # the picture of what has been found, beside the results

All train on the same 10,000 digits (`load_digits("train")`, 1,000 of each class), held in memory and dealt in the same
shuffled order, and learn noise levels 0 to 999 by the mean squared error:

    ours                 `TrainConfig()`: it learns the labels; samples get random ones, and no guidance
    ours-without-labels  the same with `conditional=False`: it knows no more than the others do
    tutorial             network and recipe of "Diffusion Deep Dive Part 3: Coding a DDPM from Scratch" by
                         S. Wanninayaka: three levels of 64, 128 and 256 channels on digits padded to 32 pixels, eps,
                         linear schedule, batches of 128. Mended: its average of the weights starts warm, DDIM makes 50
                         calls and not 51, and where the image is clipped the noise estimate moves along
    lucidrains           Unet and GaussianDiffusion of denoising-diffusion-pytorch, trained as its Trainer does, with
                         their defaults, but for the size (16, 32 and 64 channels) and no mirrored digits
    diffusers            UNet2DModel and DDPMScheduler, trained by the recipe of diffusers' unconditional example, but
                         for the size (16, 32 and 64 channels), no mirrored digits, and a warm-up of a tenth of the run
                         where that is shorter than its 500 updates

The last two have as many parameters as ours, as near as their widths come; each row says how many. Nobody reads images
from files here: what the loops cost is measured by benchmarks/train.py.

`speed` takes turns, so that a busy moment hits all: in each of 4 rounds everyone makes updates for 5 seconds, and the
median says how many updates a minute holds. `train` makes exactly so many, however long they take: a busy machine, or
one thread, changes when a result comes, and not what it is. A recipe whose learning rate falls towards the end of its
run (ours, diffusers) is run anew for each number of minutes, as its user would; the others are looked at on the way.

At 1, 2, 3, 5 and 10 minutes 500 digits are drawn from the averaged weights, in 50 steps of DDIM without fresh noise, by
the library's own sampler (the tutorial's by ours) and from fixed seeds. They are scored as by `ddpm_course evaluate`:
against the first 500 test digits, in the features of the bundled judge. Beside each score stands its floor, that of 500
training digits. Each score is a line of benchmarks/results/time_to_digits.jsonl (or --out) that names every setting;
those that are there are not made again. --pictures keeps some of the digits.

pip install "ddpm_course[bench]" brings the others' libraries.
"""
import argparse
import dataclasses
import datetime
import json
import os
import statistics
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # read by lucidrains' samplers when they are imported

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from machine import machine  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from ddpm_course.app.config import TrainConfig  # noqa: E402
from ddpm_course.app.evaluation import FEWEST, evaluate  # noqa: E402
from ddpm_course.app.run import new_state  # noqa: E402
from ddpm_course.data import load_digits, to_model_range  # noqa: E402
from ddpm_course.ddim import ddim_sample  # noqa: E402
from ddpm_course.embedding import TimeEmbedding  # noqa: E402
from ddpm_course.evaluation import DigitFeatures  # noqa: E402
from ddpm_course.lib.storage import append_line  # noqa: E402
from ddpm_course.lib.viz import save_grid  # noqa: E402
from ddpm_course.objective import Denoiser, diffusion_loss  # noqa: E402
from ddpm_course.schedules import make_schedule  # noqa: E402
from ddpm_course.training import EMA, batch_index, training_steps  # noqa: E402
from ddpm_course.unet import ResBlock  # noqa: E402

RESULTS = Path(__file__).parent / "results" / "time_to_digits.jsonl"
MINUTES = 1.0, 2.0, 3.0, 5.0, 10.0
STEPS, AT_ONCE = 50, 100  # of DDIM, and images drawn at once


class Recipe:
    """
    A way to train, whose run is `updates` long.

    `update()` makes one update, and `sample(n, seed)` draws digits (n, 1, 28, 28) in [-1, 1] from the averaged weights.
    `settings`: all numbers that it depends on.
    """
    falls = False  # Whether the learning rate falls towards the end of the run.

    def __init__(self, data, updates: int):
        self.data, self.done = data, 0

    def step(self) -> None:
        self.update()
        self.done += 1

    def batch(self) -> Tensor:
        return self.data.batch(batch_index(len(self.data), self.settings["batch_size"], self.done, seed=0))[0]

    def facts(self) -> dict:
        return {"parameters": sum(p.numel() for p in self.model.parameters()), "settings": self.settings}


class Ours(Recipe):
    falls, change = True, {}

    def __init__(self, data, updates):
        super().__init__(data, updates)
        config = TrainConfig(steps=updates, device="cpu", **self.change)
        self.state = new_state(config, None if config.conditional is False else data.classes)
        self.model, self.settings = self.state.denoiser.model, dataclasses.asdict(config)
        self.steps = training_steps(self.state, data, config)

    def update(self):
        next(self.steps)

    def sample(self, n, seed):
        labels = torch.randint(10, (n,), generator=torch.Generator().manual_seed(seed))
        return ddim_sample(self.state.averaged, n, steps=STEPS, seed=seed, progress=False,
                           y=labels if self.state.averaged.classes else None)


class OursWithoutLabels(Ours):
    change = {"conditional": False}


class ThreeLevels(nn.Module):
    "The tutorial's network: `width` channels at full size, twice as many at each half; no attention."
    def __init__(self, width: int, embedding: int, groups: int):
        super().__init__()
        def block(i, o):
            made = ResBlock(i, o, 4 * embedding, dropout=0.0, groups=groups)
            made.conv2.reset_parameters()  # ours starts at 0, the tutorial's does not
            return made
        widths = [width, 2 * width, 4 * width]
        pairs = list(zip(widths, widths[1:]))
        self.time, self.first = TimeEmbedding(embedding, 4 * embedding), nn.Conv2d(1, width, 3, padding=1)
        self.down = nn.ModuleList(block(i, i) for i, _ in pairs)
        self.shrink = nn.ModuleList(nn.Conv2d(i, o, 3, stride=2, padding=1) for i, o in pairs)
        self.middle = block(widths[-1], widths[-1])
        self.grow = nn.ModuleList(nn.ConvTranspose2d(o, i, 4, stride=2, padding=1) for i, o in pairs[::-1])
        self.up = nn.ModuleList(block(2 * i, i) for i, _ in pairs[::-1])
        self.last = nn.Sequential(nn.GroupNorm(groups, width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x, t, y=None):
        x, emb, kept = self.first(x), F.silu(self.time(t)), []
        for block, shrink in zip(self.down, self.shrink):
            kept.append(block(x, emb))
            x = shrink(kept[-1])
        x = self.middle(x, emb)
        for grow, block in zip(self.grow, self.up):
            x = block(torch.cat([grow(x), kept.pop()], 1), emb)
        return self.last(x)


class Tutorial(Recipe):
    settings = {"network": {"width": 64, "embedding": 128, "groups": 8}, "image_size": 32, "prediction": "eps",
                "schedule": "linear", "num_timesteps": 1000, "optimizer": "AdamW", "lr": 2e-4, "batch_size": 128,
                "grad_clip": 1.0, "ema": 0.9999, "ema_warm_start": True}

    def __init__(self, data, updates):
        super().__init__(data, updates)
        c = self.settings
        self.model = ThreeLevels(**c["network"])
        self.ema = EMA(self.model, c["ema"])
        self.denoiser, self.averaged = (
            Denoiser(model, make_schedule(c["schedule"], c["num_timesteps"]), c["prediction"], shape=(1, 32, 32))
            for model in (self.model, self.ema.module))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=c["lr"])

    def update(self):
        x0 = F.pad(self.batch(), (2, 2, 2, 2), value=-1.0)
        t = torch.randint(self.settings["num_timesteps"], (len(x0),))
        loss = diffusion_loss(self.denoiser, x0, t, torch.randn_like(x0)).mean()
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["grad_clip"])
        self.optimizer.step()
        self.ema.update_parameters(self.model)

    def sample(self, n, seed):
        return ddim_sample(self.averaged, n, steps=STEPS, seed=seed, progress=False)[:, :, 2:-2, 2:-2]


class Lucidrains(Recipe):
    settings = {"network": {"dim": 16, "dim_mults": (1, 2, 4), "channels": 1},
                "diffusion": {"image_size": 28, "timesteps": 1000, "objective": "pred_v", "beta_schedule": "sigmoid",
                              "sampling_timesteps": STEPS},
                "optimizer": "Adam", "lr": 1e-4, "betas": (0.9, 0.99), "batch_size": 16, "grad_clip": 1.0,
                "ema": {"beta": 0.995, "update_every": 10}}

    def __init__(self, data, updates):
        from denoising_diffusion_pytorch import GaussianDiffusion, Unet
        from ema_pytorch import EMA as TheirAverage
        super().__init__(data, updates)
        c = self.settings
        self.model = Unet(**c["network"])
        self.diffusion = GaussianDiffusion(self.model, **c["diffusion"])
        self.ema = TheirAverage(self.diffusion, **c["ema"])
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=c["lr"], betas=c["betas"])

    def update(self):
        self.diffusion((self.batch() + 1) / 2).backward()  # it wants [0, 1], and draws levels and noise itself
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["grad_clip"])
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update()

    def sample(self, n, seed):
        torch.manual_seed(seed)
        return 2 * self.ema.ema_model.sample(batch_size=n) - 1


class Diffusers(Recipe):
    falls = True

    def __init__(self, data, updates):
        from diffusers import DDPMScheduler, UNet2DModel
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel
        super().__init__(data, updates)
        self.settings = c = {
            "network": {"sample_size": 28, "in_channels": 1, "out_channels": 1, "layers_per_block": 2,
                        "block_out_channels": (16, 32, 64), "norm_num_groups": 4,  # of 4 channels, as in the example
                        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D")},
            "diffusion": {"num_train_timesteps": 1000, "beta_schedule": "linear", "prediction_type": "epsilon"},
            "optimizer": "AdamW", "adam": {"lr": 1e-4, "betas": (0.95, 0.999), "weight_decay": 1e-6, "eps": 1e-8},
            "lr_scheduler": "cosine", "warmup": min(500, updates // 10), "batch_size": 16, "grad_clip": 1.0,
            "ema": {"decay": 0.9999, "use_ema_warmup": True, "inv_gamma": 1.0, "power": 0.75}}
        self.model, self.schedule = UNet2DModel(**c["network"]), DDPMScheduler(**c["diffusion"])
        self.optimizer = torch.optim.AdamW(self.model.parameters(), **c["adam"])
        self.rate = get_scheduler(c["lr_scheduler"], self.optimizer, num_warmup_steps=c["warmup"],
                                  num_training_steps=updates)
        self.ema = EMAModel(self.model.parameters(), **c["ema"])

    def update(self):
        x0 = self.batch()
        noise, t = torch.randn_like(x0), torch.randint(1000, (len(x0),))
        F.mse_loss(self.model(self.schedule.add_noise(x0, noise, t), t).sample, noise).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["grad_clip"])
        self.optimizer.step()
        self.rate.step()
        self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())

    def sample(self, n, seed):
        from diffusers import DDIMPipeline, DDIMScheduler
        self.ema.store(self.model.parameters())
        self.ema.copy_to(self.model.parameters())
        draw = DDIMPipeline(self.model, DDIMScheduler.from_config(self.schedule.config))
        draw.set_progress_bar_config(disable=True)
        images = draw(n, torch.Generator().manual_seed(seed), num_inference_steps=STEPS, output_type="numpy",
                      use_clipped_model_output=True).images  # the noise estimate moves along, as for the others
        self.ema.restore(self.model.parameters())
        return 2 * torch.from_numpy(images).permute(0, 3, 1, 2) - 1


RECIPES = {"ours": Ours, "ours-without-labels": OursWithoutLabels, "tutorial": Tutorial, "lucidrains": Lucidrains,
           "diffusers": Diffusers}


def rows(path: Path, kind: str) -> list[dict]:
    "The lines of the results that are a \"speed\" or a \"score\"."
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def keep(path: Path, **row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    append_line(path, json.dumps(row | {"date": datetime.date.today().isoformat(), **machine("cpu")}))


def make(name: str, data, updates: int) -> Recipe:
    torch.manual_seed(0)
    return RECIPES[name](data, updates)


def speed(names: list[str], args) -> None:
    "Updates a second of each recipe, taking turns."
    data = load_digits("train")
    recipes = {name: make(name, data, 10**6) for name in names}
    rates = {name: [] for name in names}
    for recipe in recipes.values():  # warm up
        recipe.step()
        recipe.step()
    for _ in range(args.rounds):
        for name, recipe in recipes.items():
            start, before, spent = time.perf_counter(), recipe.done, 0.0
            while spent < args.seconds:
                recipe.step()
                spent = time.perf_counter() - start
            rates[name].append(round((recipe.done - before) / spent, 4))
    for name, recipe in recipes.items():
        rate, batch_size = statistics.median(rates[name]), recipe.settings["batch_size"]
        keep(args.out, kind="speed", recipe=name, updates_per_second=rate, images_per_second=rate * batch_size,
             rounds=rates[name], seconds_a_round=args.seconds, **recipe.facts())
        print(f"{name:20s}{rate:9.3f} updates/s{rate * batch_size:8.1f} images/s   rounds {rates[name]}", flush=True)


def train(name: str, args) -> None:
    "The scores of one recipe that are missing."
    speeds = [row["updates_per_second"] for row in rows(args.out, "speed") if row["recipe"] == name]
    if not speeds:
        raise SystemExit(f"the speed of {name} is not in {args.out}: run `speed` first")
    there = {(row["minutes"], row["samples"]) for row in rows(args.out, "score") if row["recipe"] == name}
    missing = [minutes for minutes in sorted(args.minutes) if (minutes, args.samples) not in there]
    data, recipe = load_digits("train"), None
    for minutes in missing:
        goal = max(1, round(60 * minutes * speeds[-1]))
        if recipe is None or recipe.falls:
            recipe, seconds = make(name, data, goal), 0.0
        start = said = time.perf_counter()
        while recipe.done < goal:
            recipe.step()
            if time.perf_counter() - said > 60:
                said = time.perf_counter()
                print(f"  {name}: {recipe.done} of {goal} updates, {said - start:.0f} s", flush=True)
        seconds += time.perf_counter() - start
        score(name, recipe, args, minutes=minutes, updates_per_second=speeds[-1],
              seconds_of_training=round(seconds, 1))


def score(name: str, recipe: Recipe, args, minutes: float, **row) -> None:
    "Draw digits, and keep what they are worth."
    start = time.perf_counter()
    with torch.random.fork_rng([]):  # a look on the way does not change the training
        images = torch.cat([recipe.sample(min(AT_ONCE, args.samples - i), seed=1 + i)
                            for i in range(0, args.samples, AT_ONCE)])
    seconds = time.perf_counter() - start
    judge, (real, training) = DigitFeatures(), (to_model_range(load_digits(part).images) for part in ("test", "train"))
    scores = {key: {"value": round(made.value, 5), "interval": [round(end, 5) for end in made.interval],
                    "floor": round(floor.value, 5)}
              for key, (made, floor) in evaluate(images, real, training, judge).items()}
    keep(args.out, kind="score", recipe=name, minutes=minutes, updates=recipe.done,
         images=recipe.done * recipe.settings["batch_size"], scores=scores, samples=len(images), ddim_steps=STEPS,
         judge=str(judge), seconds_of_sampling=round(seconds, 1), **row, **recipe.facts())
    told = ", ".join(f"{key} {scores[key]['value']:.4g} (floor {scores[key]['floor']:.2g})"
                     for key in ("frechet", "kernel", "confident"))
    print(f"{name}, {minutes:g} min, {recipe.done} updates: {told}", flush=True)
    if args.pictures:
        args.pictures.mkdir(parents=True, exist_ok=True)
        save_grid(images[:20], args.pictures / f"{name}_{minutes:g}.png", columns=10)


def draw(file: Path) -> Path:
    "A picture of the scores in `file`: both distances against minutes, with intervals, and real digits as a line."
    from matplotlib.figure import Figure
    newest = {(row["recipe"], row["minutes"]): row for row in rows(file, "score")}
    figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
    for ax, key, name in zip(figure.subplots(1, 2), ("frechet", "kernel"), ("Fréchet", "kernel")):
        for recipe, colour, marker in zip(RECIPES, ("#b5367a", "#e377c2", "#31688e", "#d08700", "#35b779"), "osD^v"):
            found = {minutes: row["scores"][key] for (of, minutes), row in sorted(newest.items()) if of == recipe}
            values = [score["value"] for score in found.values()]
            low, high = zip(*(score["interval"] for score in found.values())) if found else ((), ())
            ax.errorbar(list(found), values, yerr=[[v - a for v, a in zip(values, low)],
                                                   [b - v for v, b in zip(values, high)]],
                        color=colour, marker=marker, markersize=5, capsize=2, label=recipe.replace("-", " "))
        floor = next(row["scores"][key]["floor"] for row in newest.values())
        ax.axhline(floor, color="#888888", linestyle=":", label="real digits")
        ax.set_xscale("log")
        ax.set_yscale("symlog", linthresh=floor, subs=[2, 5])
        ax.set_ylim(bottom=0)  # intervals of the best reach below it
        ax.set_xticks(MINUTES, [f"{minutes:g}" for minutes in MINUTES])
        ax.xaxis.minorticks_off()
        ax.set(xlabel="minutes of training on two CPU cores", ylabel=f"{name} distance to test digits")
        ax.grid(alpha=0.3)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    figure.savefig(picture := file.with_suffix(".png"), dpi=100)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="?", choices=("speed", "train", "draw"), help="all, where it is left out")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(RECIPES)}; all, if left out")
    parser.add_argument("--minutes", type=float, nargs="+", default=MINUTES)
    parser.add_argument("--samples", type=int, default=500, help=f"digits drawn for each score, {FEWEST} or more")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=4, help="of speed")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each recipe in a round of speed")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the first 20 digits of each score")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    if unknown := [name for name in args.names if name not in RECIPES]:
        parser.error(f"NAME is {unknown[0]!r}, expected one of: {', '.join(RECIPES)}")
    if args.samples < FEWEST:
        parser.error(f"samples is {args.samples}, expected {FEWEST} or more")
    torch.set_num_threads(args.threads)
    names = args.names or list(RECIPES)
    if args.part in (None, "speed"):
        speed(names, args)
    for name in names if args.part in (None, "train") else ():
        train(name, args)
    if args.part in (None, "draw"):
        print(draw(args.out))


if __name__ == "__main__":
    main()
