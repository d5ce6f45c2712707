"""What a measurement was made on: every benchmark writes this beside its numbers."""
import importlib.metadata
import os
import platform
from pathlib import Path

import torch

PACKAGES = ("torch", "accelerate", "diffusers", "denoising-diffusion-pytorch")


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(device: str) -> dict:
    "CPU, number of cores and threads, GPU (None where it is not used), and the versions of what is compared."
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
            "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None, "versions": versions}
