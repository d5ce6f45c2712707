"""What looks at the reader's own code: says what is right, and names the likely mistake."""
from .answers import answer as answer
from .catalogue import EXERCISES as EXERCISES, progress as progress
from .data import to_model_range as to_model_range
from .exercise import Exercise as Exercise, Verdict as Verdict
from .forward import q_posterior as q_posterior, q_sample as q_sample
from .objective import loss as loss, snr_weight as snr_weight
