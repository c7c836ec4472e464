"""Default hyper-parameters of configs and of the scripts' presets: those that learn fastest on Multi-Agent MuJoCo, see
results/README.md, "What each trick buys". Does not import torch, so the command line can show them quickly."""

BATCH = 4000
"""Environment steps per iteration."""
NUM_EPOCHS = 10
MINIBATCH = 500
"""Environment steps per optimiser step, over all learners."""
LR = 3e-4
"""Initial learning rate; it decays linearly to 0 over the budget of a run, if known."""
GAMMA = 0.99
LAMBDA = 0.95
GRAD_CLIP = 0.5
TARGET_KL = 0.02
"""Mean KL divergence of a pass after which MAPPO ends the passes of an iteration. Without it, standard deviations of
joint LoRASA collapse in some runs, and steps become ever larger beside them."""


def minibatch_of(batch: int, learners: int, chunk_length: int) -> int | None:
    """Environment steps per optimiser step of one learner, for minibatches of about `MINIBATCH` over all learners.

    batch: environment steps per iteration of one learner. chunk_length: minibatches are whole chunks of it; 1 for
    feed-forward networks. Returns None if the whole batch is one minibatch.
    """
    parts = min(round(batch * learners / MINIBATCH), batch // chunk_length)
    return None if parts < 2 else batch // chunk_length // parts * chunk_length
