"""One of the processes of `test_two_processes_give_the_curve_of_one`."""

import sys
from pathlib import Path

from ft_jax.training import fit
from ft_jax.training.process import start_processes

if __name__ == "__main__":
    start_processes()
    from training.test_parallel import decoder

    fit(decoder(sys.argv[2], accumulate=1), run=Path(sys.argv[1]), quiet=True)
