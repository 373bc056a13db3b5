import turns
from turns import Long, digests_of, record, recorded, todays, unit

LONG = {f"tests/test_{number}.py::test": Long(2.0 + number % 5, "same") for number in range(40)}
SAME = dict.fromkeys(LONG, "same")


def spent(chosen):
    return sum(LONG[name].seconds for name in chosen)


def test_every_long_test_has_its_turn_within_the_days_that_all_of_them_take():
    days = -int(-spent(LONG) // 30)
    runs = [todays(LONG, SAME, day, 30) for day in range(7, 7 + days)]
    assert set().union(*runs) == set(LONG)
    assert all(30 <= spent(run) < 30 + 6 for run in runs)


def test_all_run_where_there_is_time_for_all():
    assert todays(LONG, SAME, 3, spent(LONG) + 1) == set(LONG)


def test_what_changed_runs_first_and_even_beyond_the_budget():
    changed = set(list(LONG)[:20])
    now = SAME | dict.fromkeys(changed, "another")
    assert todays(LONG, now, 5, 10) == changed
    assert todays(LONG, now, 5, spent(changed) + 10) > changed


def test_a_test_that_is_gone_is_not_asked_for():
    name = next(iter(LONG))
    assert name not in todays(LONG, {one: "same" for one in LONG if one != name}, 0, 1000)


def test_what_is_measured_comes_back_and_quick_ones_leave(tmp_path):
    path, here = tmp_path / "seconds.json", "tests/test_turns.py::test_a"
    record({here: 2.04, "tests/test_turns.py::test_b": 1.9}, {here: "x", "tests/test_turns.py::test_b": "x"}, path)
    assert recorded(path) == {here: Long(2.0, "x")}
    record({"tests/test_turns.py::test_b": 3.0}, {"tests/test_turns.py::test_b": "y"}, path)
    assert set(recorded(path)) == {here, "tests/test_turns.py::test_b"}
    record({here: 0.1}, {here: "x"}, path)
    assert set(recorded(path)) == {"tests/test_turns.py::test_b"}


def test_a_law_is_what_its_method_is_and_a_test_what_its_file_is():
    laws = [unit(f"tests/laws/test_laws.py::test_{law}[rl.dpo]") for law in ("a_step_is_pure", "resume")]
    assert laws[0] == laws[1]
    found = digests_of([laws[0], unit("tests/laws/test_laws.py::test_x[transfer.lora]"), "tests/test_turns.py::test_a"])
    assert len(set(found.values())) == 3


def test_a_page_is_read_from_its_beginning():
    """A block of it takes up what those before it left, so none runs without them."""
    names = {unit(f"tests/test_quickstart.py::test_the_block_does_what_the_page_says[{block}]") for block in "abc"}
    assert names == {"tests/test_quickstart.py"} and "tests/test_quickstart.py" in recorded()


def test_the_record_names_files_that_are_there():
    stale = [name for name in recorded() if not turns.file_of(name).exists()]
    assert not stale, f"tests/seconds.json names {stale[:1]}, whose file is gone; run make slow"
