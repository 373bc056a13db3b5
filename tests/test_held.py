import held
from held import keep, law_of, recorded

import ft_jax

NOW = {"rl.dpo": "a.b.c", "rl.ppo": "d.b.c"}


def test_a_law_that_held_is_not_asked_again_until_its_method_changes(tmp_path):
    path, asked = tmp_path / "laws.jsonl", law_of("tests/laws/test_separate.py::test_a_step_is_pure[rl.dpo]")
    assert not held.held(recorded(NOW, path), asked)
    keep(asked, False, NOW, path)
    keep(("rl.dpo", "resume"), True, NOW, path)
    keep(("rl.ppo", "resume"), False, NOW, path)
    lines = recorded(NOW, path)
    assert held.held(lines, asked) and held.held(lines, ("rl.dpo", "resume"))
    assert not held.held(lines, ("rl.ppo", "a_step_is_pure"))
    changed = recorded(NOW | {"rl.dpo": "x.b.c"}, path)
    assert not held.held(changed, asked) and held.held(changed, ("rl.ppo", "resume"))
    keep(asked, False, NOW | {"rl.dpo": "x.b.c"}, path)
    assert recorded(NOW | {"rl.dpo": "x.b.c"}, path)["rl.dpo"]["not for it"] == []


def test_every_method_and_every_law_counts():
    now = held.digests()
    assert now.keys() == ft_jax.catalogue.keys() and all(digest.count(".") == 2 for digest in now.values())
    assert law_of("tests/laws/test_laws.py::test_a_step_is_pure[rl.dpo]") is None
