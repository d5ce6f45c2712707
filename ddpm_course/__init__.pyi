# The public names and where they live: read by editors and type checkers, and by lazy_loader when the program runs.
from . import check as check
from .app.config import TrainConfig as TrainConfig
from .app.run import train as train
from .ddim import ddim_sample as ddim_sample
from .ddpm import ddpm_sample as ddpm_sample
from .forward import NoiseSchedule as NoiseSchedule
from .guidance import with_guidance as with_guidance
from .hub import load_pretrained as load_pretrained, save_pretrained as save_pretrained
from .lib.viz import show_images as show_images
from .objective import Denoiser as Denoiser
from .solvers import dpmpp_sample as dpmpp_sample
from .unet import UNet as UNet, UNetConfig as UNetConfig

__version__: str
