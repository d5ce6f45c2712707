"""Diffusion models from first principles. The names below load what they need, PyTorch included, when first used."""
__version__ = "0.1.0"

import os

import lazy_loader

# OpenMP reads this once, when torch is loaded. Its threads otherwise spin while they wait, which on a busy machine
# takes the processor from the thread that they wait for. A value that is already set stays.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
