"""What does the training loop cost beside the network? Ours, lucidrains' Trainer and diffusers' example loop.

    python benchmarks/train.py                                     # a few minutes on two quiet CPU cores
    python benchmarks/train.py --rounds 10                         # a short try
    python benchmarks/train.py --device cuda --size large --switches

All contestants train the same network (that of the default run, or of Ho et al. 2020 with --size large) on the bundled
digits, without labels, with the same batch size, and take turns: in each round everyone makes `--steps` updates, so
that a busy moment hits all of them. Reported are medians over the rounds of the time per step, and of its
ratio to the network alone in the same round, with the standard error of that median: a machine that is shared scatters
by more than the loops add, so it takes many short rounds to see them.

    network alone        forward and backward of the network, on one fixed batch: no loop can be faster
    + AdamW, EMA         the same with the optimizer's step and the average of the weights
    ours                 `training_steps`: images, levels, noise, loss, clipping, checks for numbers that are not finite
    lucidrains           `Trainer.train` of denoising-diffusion-pytorch as it is shipped, on the digits as PNG files
    diffusers            the loop of diffusers' unconditional example, its parts (DDPMScheduler, EMAModel, accelerate)

The last two are left out where the library is missing. `--switches` adds ours with bf16, with contiguous memory, with
torch.compile, and with CUDA graphs. "images" is the time that fetching a batch from memory takes, as a share of a step.
Not in the times: checkpoints and pictures. Results go to benchmarks/results/train.json (or --out).
"""
import argparse
import datetime
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import torch  # noqa: E402
from machine import machine  # noqa: E402
from torch import nn  # noqa: E402
from tqdm.auto import tqdm  # noqa: E402

from ddpm_course.app.config import TrainConfig  # noqa: E402
from ddpm_course.app.run import new_state, training_steps  # noqa: E402
from ddpm_course.data import load_digits  # noqa: E402
from ddpm_course.training import EMA, batch_index  # noqa: E402

FOREVER = 10**9
SIZES = {"small": {}, "large": {"base_channels": 128, "channel_mults": (1, 2, 2), "num_res_blocks": 2, "groups": 32,
                                "attention_resolutions": (14,), "patch_size": 1}}


def config(args, **change) -> TrainConfig:
    return TrainConfig(**{**SIZES[args.size], "conditional": False, "batch_size": args.batch_size, "steps": FOREVER,
                          "device": args.device, **change})


class Contestant:
    def run(self, steps):
        for _ in range(steps):
            self.step()


class Ours(Contestant):
    def __init__(self, args, data, memory_format=torch.channels_last, compile_mode=None, **change):
        c = config(args, **change)
        self.state = new_state(c)
        self.state.denoiser.model.to(memory_format=memory_format)
        if compile_mode:
            self.state.denoiser.model.compile(mode=compile_mode)
        self.steps = training_steps(self.state, data.to(self.state.device), c)

    def step(self):
        next(self.steps)


class Alone(Contestant):
    "The network on one fixed batch: forward and backward, and, where asked for, the update and the average."
    def __init__(self, args, data, update=False):
        self.state = new_state(config(args))
        x0, _ = data.batch(torch.arange(args.batch_size))
        self.x = x0.to(self.state.device)
        self.t, self.target = torch.arange(args.batch_size, device=self.x.device), torch.randn_like(self.x)
        self.update, self.model = update, self.state.denoiser.model.train()
        self.ema = EMA(self.model)

    def step(self):
        self.state.optimizer.zero_grad()
        nn.functional.mse_loss(self.model(self.x, self.t), self.target).backward()
        if self.update:
            self.state.optimizer.step()
            self.ema.update_parameters(self.model)


class AsTheirs(nn.Module):
    "Our network with the attributes and the signature that lucidrains' code asks for."
    self_condition = random_or_learned_sinusoidal_cond = False

    def __init__(self, model, channels=1):
        super().__init__()
        self.model, self.channels, self.out_dim = model, channels, channels

    def forward(self, x, t, x_self_cond=None):
        return self.model(x, t)


class Lucidrains:
    def __init__(self, args, folder):
        import denoising_diffusion_pytorch.denoising_diffusion_pytorch as library
        from denoising_diffusion_pytorch import GaussianDiffusion, Trainer
        library.tqdm = lambda **options: tqdm(disable=True)
        c = config(args)
        model = AsTheirs(new_state(c).denoiser.model)
        diffusion = GaussianDiffusion(model, image_size=28, timesteps=1000, objective="pred_v", beta_schedule="cosine")
        self.trainer = Trainer(diffusion, str(folder), train_batch_size=args.batch_size, train_lr=c.lr,
                               augment_horizontal_flip=False, save_and_sample_every=FOREVER, calculate_fid=False,
                               train_num_steps=0, results_folder=str(folder / "results"))
        self.trainer.accelerator.print = lambda *words: None

    def run(self, steps):
        self.trainer.train_num_steps += steps
        self.trainer.train()


class PngFiles(torch.utils.data.Dataset):
    def __init__(self, folder):
        from torchvision import transforms
        self.paths = sorted(Path(folder).glob("*.png"))
        self.transform = transforms.Compose([transforms.Resize(28), transforms.CenterCrop(28), transforms.ToTensor(),
                                             transforms.Normalize([0.5], [0.5])])

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        from PIL import Image
        return self.transform(Image.open(self.paths[i]))


class Diffusers(Contestant):
    def __init__(self, args, folder):
        from accelerate import Accelerator
        from diffusers import DDPMScheduler
        from diffusers.optimization import get_scheduler
        from diffusers.training_utils import EMAModel
        c = config(args)
        model = new_state(c).denoiser.model.to(memory_format=torch.contiguous_format)
        loader = torch.utils.data.DataLoader(PngFiles(folder), batch_size=args.batch_size, shuffle=True, drop_last=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=c.lr, weight_decay=1e-6)
        schedule = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=FOREVER)
        self.noise_scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
        self.ema = EMAModel(model.parameters(), use_ema_warmup=True, power=0.75)
        self.accelerator = Accelerator(mixed_precision="no")
        self.ema.to(self.accelerator.device)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, loader, schedule)
        self.batches = self.endless()

    def endless(self):
        while True:
            yield from self.loader

    def step(self):
        clean, device = next(self.batches), self.accelerator.device
        self.model.train()
        noise = torch.randn(clean.shape, device=device)
        t = torch.randint(0, 1000, (len(clean),), device=device).long()
        noisy = self.noise_scheduler.add_noise(clean, noise, t)
        with self.accelerator.accumulate(self.model):
            loss = nn.functional.mse_loss(self.model(noisy, t).float(), noise.float())
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        self.ema.step(self.model.parameters())
        return loss.detach().item()


class Images(Contestant):
    "Nothing but fetching the next batch from memory."
    def __init__(self, args, data, device):
        self.data, self.c, self.n = data.to(device), config(args), 0

    def step(self):
        self.data.batch(batch_index(len(self.data), self.c.batch_size, self.n, 0))
        self.n += 1


def contestants(args, data, folder) -> dict:
    device = new_state(config(args)).device
    made = {"network alone": lambda: Alone(args, data), "+ AdamW, EMA": lambda: Alone(args, data, update=True),
            "ours": lambda: Ours(args, data), "lucidrains": lambda: Lucidrains(args, folder),
            "diffusers": lambda: Diffusers(args, folder), "images": lambda: Images(args, data, device)}
    if args.switches:
        made |= {"ours, contiguous": lambda: Ours(args, data, torch.contiguous_format),
                 "ours, bf16": lambda: Ours(args, data, precision="bf16"),
                 "ours, compile": lambda: Ours(args, data, compile=True)}
        if device.type == "cuda":
            made |= {"ours, bf16, compile": lambda: Ours(args, data, precision="bf16", compile=True),
                     "ours, bf16, CUDA graphs": lambda: Ours(args, data, precision="bf16",
                                                             compile_mode="reduce-overhead")}
    ready = {}
    for name, make in made.items():
        try:
            ready[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return ready


def seconds_per_step(contestant, steps: int, device: str) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_available() and device != "cpu" else lambda: None
    wait()
    start = time.perf_counter()
    contestant.run(steps)
    wait()
    return (time.perf_counter() - start) / steps


def error_of_median(values: list[float]) -> float:
    "The standard error of their median: how much it varies where the rounds are drawn anew, with replacement."
    draw = random.Random(0)
    return statistics.stdev(statistics.median(draw.choices(values, k=len(values))) for _ in range(500))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--steps", type=int, default=1, help="updates of each contestant in each round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--switches", action="store_true", help="also ours with each switch")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "train.json")
    args = parser.parse_args()

    data, times = load_digits("train"), {}
    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image
        for i in range(1000):
            Image.fromarray(data.images[i, 0].numpy()).save(f"{folder}/{i:05d}.png")
        ready = contestants(args, data, Path(folder))
        for contestant in ready.values():  # warm up: memory, caches, compilers, worker processes
            seconds_per_step(contestant, 5, args.device)
        for _ in range(args.rounds):
            for name, contestant in ready.items():
                times.setdefault(name, []).append(seconds_per_step(contestant, args.steps, args.device))

    result = {"date": datetime.date.today().isoformat(), **machine(args.device),
              "settings": {k: str(v) for k, v in vars(args).items() if k != "out"}, "contestants": {}}
    print(f"{'':26s} ms a step    images/s   ratio to the network alone")
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["network alone"])]
        row = {"seconds": statistics.median(found), "ratio": statistics.median(ratios),
               "standard_error": error_of_median(ratios), "ratios": [round(ratio, 4) for ratio in ratios],
               "all": [round(seconds, 6) for seconds in found]}
        result["contestants"][name] = row
        print(f"{name:26s} {1000 * row['seconds']:9.2f} {args.batch_size / row['seconds']:11.1f}   {row['ratio']:.3f} "
              f"+- {row['standard_error']:.3f}")
    share = [a / b for a, b in zip(times["images"], times["ours"])]
    result["images as a share of a step"] = statistics.median(share)
    print(f"fetching images from memory takes {statistics.median(share):.2%} of one of our steps")
    args.out.parent.mkdir(exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
