"""Hyperband's table 1 (resource 81, eta 3): what it prints, and where its formula gives other numbers."""

from ft_jax.training.reproduction import Finding, Found, Reproduction
from ft_jax.tuning import brackets

PRINTED = (
    ((81, 1), (27, 3), (9, 9), (3, 27), (1, 81)),
    ((27, 3), (9, 9), (3, 27), (1, 81)),
    ((9, 9), (3, 27), (1, 81)),
    ((6, 27), (2, 81)),
    ((5, 81),),
)
"""Table 1: trials and resource of every rung, brackets s = 4 to 0."""

FORMULA = (81, 34, 15, 8, 5)
"""Trials at the start of each bracket by algorithm 1's own formula, worked out by hand."""


def measure(seeds, quick):
    """Every rung of the table, and the first rungs by the formula."""
    ours = tuple(tuple((rung.trials, rung.resource) for rung in bracket) for bracket in brackets(81, table=True))
    cells = [
        Finding(
            f"s={4 - at}: trials (and rungs equal)", str(printed[0][0]), (float(mine[0][0]),), "equal", mine == printed
        )
        for at, (mine, printed) in enumerate(zip(ours, PRINTED, strict=True))
    ]
    formula = tuple(bracket[0].trials for bracket in brackets(81))
    cells += [
        Finding(f"s={4 - at}: trials by the formula (the default)", str(asked), (float(mine),), "equal", mine == asked)
        for at, (mine, asked) in enumerate(zip(formula, FORMULA, strict=True))
    ]
    return Found(cells)


reproduction = Reproduction(
    title="Hyperband's brackets for a resource of 81",
    paper="Li et al. 2018, arXiv:1603.06560",
    where="table 1 and algorithm 1",
    setting="same",
    measure=measure,
    seconds=0.1,
)
