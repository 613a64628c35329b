from triptych.synth.split import held_out


def test_the_share_is_met_and_nothing_depends_on_anything_else() -> None:
    keys = [f"concept {number}" for number in range(4000)]
    taken = [key for key in keys if held_out(key, 0.15)]
    assert 0.13 < len(taken) / len(keys) < 0.17
    assert [key for key in reversed(keys) if held_out(key, 0.15)] == taken[::-1]
    assert {key for key in keys if held_out(key, 0.1)} < set(taken)
    assert not any(held_out(key, 0) for key in keys)
    assert all(held_out(key, 1) for key in keys)
