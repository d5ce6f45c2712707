"""Diffusion models from first principles. The names below load what they need, PyTorch included, when first used."""
__version__ = "0.1.0"

import os
import sys

import lazy_loader

# OpenMP reads these once, when torch is loaded. Its threads otherwise spin while they wait, which on a busy machine takes
# the processor from the thread that they wait for. GNU's (Linux) spin for a moment, which costs little there and helps on
# a quiet machine: benchmarks/busy.py. What is already set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

if "IPython" in sys.modules:  # figures of a notebook say their alt text
    from .lib.alt_text import speak_figures
    speak_figures(sys.modules["IPython"].get_ipython())
    del speak_figures
