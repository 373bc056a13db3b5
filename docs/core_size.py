"""Prints the size of the core for docs/architecture.md: ``python docs/core_size.py``."""

from pathlib import Path

import ft_jax.core

files = sorted(Path(ft_jax.core.__file__).parent.rglob("*.py"))
lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
longest = max(lines, key=lines.get)
print(
    f"The core has {sum(lines.values()):,} lines with its documentation in {len(files)} files; the longest is "
    f"`{longest.name}` with {lines[longest]}. It exports {len(ft_jax.core.__all__)} names."
)
