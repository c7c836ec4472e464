"""Making one copy: what is wrong with a name, with settings or with a constructor is said, and whose fault it is."""

from __future__ import annotations

import pytest

from lorasa_rllib.envs.pettingzoo_games import make_game
from tests.envs import games


class Plain(games.Game):
    def __init__(self, size=3):
        super().__init__()


class Needs(games.Game):
    def __init__(self, size):
        super().__init__()


class Faulty(games.Game):
    def __init__(self, size=3):
        len(5)


class FaultyInside(games.Game):
    def __init__(self, size=3):
        self.helper(size=size)

    def helper(self):
        pass


def handed_on(**settings):
    return Plain(**settings)


@pytest.mark.parametrize(
    ("env", "settings", "message"),
    [
        (Plain, {"colour": 1}, r"does not take the settings \['colour'\].*unexpected keyword argument 'colour'"),
        (handed_on, {"colour": 1}, r"does not take the settings \['colour'\]"),
        (Needs, {}, r"does not take the settings \[\].*missing 1 required positional argument: 'size'"),
        ("mpe2.simple_spread_v3", {"n": 3}, r"does not take the settings \['n'\]"),
    ],
)
def test_settings_that_an_environment_does_not_take(env, settings, message):
    with pytest.raises(ValueError, match=message):
        make_game(env, settings)


@pytest.mark.parametrize("settings", [{}, {"size": 4}])
def test_a_constructors_own_error_comes_as_it_is(settings):
    with pytest.raises(TypeError, match="object of type 'int' has no len"):
        make_game(Faulty, settings)


def test_an_error_about_a_setting_within_a_constructor_keeps_its_cause():
    with pytest.raises((TypeError, ValueError), match="unexpected keyword argument 'size'") as caught:
        make_game(FaultyInside, {"size": 4})
    assert caught.value.__cause__ is not None or caught.type is TypeError


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            "pettingzoo.butterfly.knights_archers_zombies_v10",
            "has pettingzoo.butterfly.knights_archers_zombies_v11 ins",
        ),
        ("mpe2.simple_spread_v2", "This package has mpe2.simple_spread_v3 instead"),
        ("mpe2.simple_spread", "This package has mpe2.simple_spread_v3 instead"),
        ("mpe2.simple_spraed_v3", "The package 'mpe2' is installed, but has no such module"),
        ("pettingzoo.classic.tictactoe_v3", r"takes turns \(AEC\).*aec_to_parallel"),
        ("no_such_package.game_v1", "Install the package that has the module 'no_such_package'"),
        (games.Game(), "is one copy of an environment.*hand over its class"),
    ],
    ids=lambda x: x if isinstance(x, str) else "instance",
)
def test_the_remedy_fits_the_name(env, message):
    with pytest.raises(ValueError, match=message):
        make_game(env, {})


def test_reset_without_a_seed_is_told():
    class Seedless(games.Game):
        def reset(self):
            return super().reset()

    with pytest.raises(ValueError, match=r"reset\(\) of env=.*takes no seed"):
        make_game(Seedless, {})
