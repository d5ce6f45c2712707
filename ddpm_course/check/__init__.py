"""What looks at the reader's own code: says what is right, and names the likely mistake."""
from .answers import answer as answer
from .catalogue import EXERCISES as EXERCISES, progress as progress
from .data import to_model_range as to_model_range
from .ddim import ddim_move as ddim_move
from .ddpm import ddpm_sample as ddpm_sample
from .embedding import time_embedding as time_embedding
from .evaluation import frechet_distance as frechet_distance
from .exact import two_points as two_points
from .exercise import Exercise as Exercise, Verdict as Verdict
from .fitting import step_memory as step_memory
from .forward import q_posterior as q_posterior, q_sample as q_sample
from .guidance import guided as guided
from .likelihood import discretized_log_prob as discretized_log_prob
from .objective import loss as loss, snr_weight as snr_weight
from .schedules import cosine_betas as cosine_betas
from .solvers import dpmpp_move as dpmpp_move
from .training import train_step as train_step
from .unet import ResBlock as ResBlock, attention as attention
from .whole import my_ddpm as my_ddpm
