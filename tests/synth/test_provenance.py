from triptych.synth.provenance import join_licenses, join_sources


def test_what_was_joined_before_is_named_once() -> None:
    assert (
        join_licenses(["MIT", "CC0-1.0 AND MIT", "Apache-2.0"]) == "Apache-2.0 AND CC0-1.0 AND MIT"
    )
    assert join_sources(["b 2; a 1", "a 1", "c 3"]) == "a 1; b 2; c 3"
    assert join_licenses(["MIT", "MIT"]) == "MIT"


def test_a_choice_of_licences_stays_one_term() -> None:
    choice = "GPL-3.0-or-later OR CC-BY-3.0"
    assert join_licenses([choice]) == choice
    assert join_licenses([choice, "MIT"]) == f"({choice}) AND MIT"
    assert join_licenses([join_licenses([choice, "MIT"]), "MIT"]) == f"({choice}) AND MIT"
