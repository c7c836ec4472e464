"""The numbers that configs and the scripts' presets begin with: what teaches teams of Multi-Agent MuJoCo fastest, see
results/README.md, "What each trick buys". Imports no torch, so that command lines can show them at once."""

BATCH = 4000
"""Environment steps of an iteration."""
NUM_EPOCHS = 10
MINIBATCH = 500
"""Environment steps of an optimiser step, over all learners."""
LR = 3e-4
"""At first: it decays linearly to 0 over the budget of a run, where that is known."""
GAMMA = 0.99
LAMBDA = 0.95
GRAD_CLIP = 0.5


def minibatch_of(batch: int, learners: int, chunk_length: int) -> int | None:
    """Environment steps of an optimiser step of one learner: a batch in equal parts of about `MINIBATCH`.

    batch: of one learner. chunk_length: 1 for feed-forward networks; parts are whole chunks. None: the whole batch.
    """
    parts = min(round(batch * learners / MINIBATCH), batch // chunk_length)
    return None if parts < 2 else batch // chunk_length // parts * chunk_length
