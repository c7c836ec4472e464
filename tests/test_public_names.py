"""`from lorasa_rllib import ...`: every name is there. `public_types.py` has what type checkers know of them."""

import ast
import inspect

import lorasa_rllib


def test_every_public_name_is_there_and_is_the_one_of_its_module():
    for name in lorasa_rllib.__all__:
        assert getattr(lorasa_rllib, name) is not None
    assert set(lorasa_rllib.__all__) == set(dir(lorasa_rllib))
    assert not hasattr(lorasa_rllib, "MAPPOConfg")


def test_type_checkers_read_the_names_that_are_there_at_run_time():
    tree = ast.parse(inspect.getsource(lorasa_rllib))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("lorasa")]
    modules = {alias.name: node.module for node in imports for alias in node.names}
    assert {*modules, "__version__"} == set(lorasa_rllib.__all__)
    for name, module in modules.items():
        assert module == f"lorasa_rllib.{lorasa_rllib._DEFINED_IN.get(name, 'rllib')}"
