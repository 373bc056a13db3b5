"""``python -m ft_jax.cli``."""

import sys

from ft_jax.cli.entry import main

sys.exit(main())
