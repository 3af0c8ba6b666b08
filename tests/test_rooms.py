"""The order of rooms that CONTRIBUTING.md states, read from every import, those for type checking included."""

import ast
import re
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from types import ModuleType

from nlsr.attention import OPERATORS, Affinity

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "nlsr").rglob("*.py"))
}


def imports(name):
    """The modules of the package that a module imports, anywhere in its file."""
    found = set()
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in FILES else node.module for each in inside}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return (found & FILES.keys()) - {name}


def stated_order():
    """Room -> its place; rooms between two arrows share one, and the ground floor stands below all."""
    text = " ".join((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split())
    stated = re.search(r"Dependence runs ([\w →,]+); ([^;.]*) stand below", text)
    order = [re.findall(r"\w+", rooms) for rooms in stated[1].split("→")]
    places = {room: place for place, rooms in enumerate(order, 1) for room in rooms}
    return places | dict.fromkeys(re.findall(r"`(\w+)`", stated[2]), 0)


def room(name):
    return name.split(".")[1]


def test_rooms_import_from_those_below_alone():
    places = stated_order()
    files_below = {name.split(".")[1] for name in FILES if name.count(".") == 1 and FILES[name].name != "__init__.py"}
    places |= dict.fromkeys(files_below, 0)
    above = {"nlsr", "nlsr.__main__", "nlsr.hub", "nlsr.ray", "nlsr.spandrel"}  # the ways in and out lead to rooms
    inside = [name for name in FILES if name not in above]
    assert {room(name) for name in inside} <= places.keys()
    upward = [
        f"{name} imports {other}"
        for name in inside
        for other in imports(name) - {"nlsr"}
        if room(other) != room(name) and places[room(other)] >= max(places[room(name)], 1)
    ]
    assert upward == []


def test_no_modules_import_each_other_in_a_circle():
    order = TopologicalSorter({name: imports(name) for name in FILES}).static_order()
    assert set(order) == FILES.keys()


def test_nobody_outside_the_room_asks_for_the_class_of_an_operator_or_affinity():
    """The base classes may be asked for."""
    kinds = {kind.__name__ for kind in OPERATORS.values()}
    unseen = [Affinity]
    while unseen:
        below = unseen.pop().__subclasses__()
        kinds |= {kind.__name__ for kind in below if kind.__module__.startswith("nlsr.")}
        unseen += below
    asked = []
    for name, path in FILES.items():
        if not name.startswith("nlsr.attention"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                    named = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
                    asked += [f"{path.name}:{node.lineno} {kind}" for kind in sorted(named & kinds)]
    assert asked == []


def test_errors_of_the_library_name_parameters_and_no_options():
    """The command makes options of them. What is said of another command, or by the server, is left out."""
    with_dashes = []
    for name, path in FILES.items():
        if name.split(".")[1:2] not in ([], ["cli"], ["serve"]):
            raised = (
                node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Raise)
            )
            words = (part for node in raised for part in ast.walk(node) if isinstance(part, ast.Constant))
            with_dashes += [f"{name}:{word.lineno} {word.value}" for word in words if "--" in str(word.value)]
    assert with_dashes == []


def test_no_module_is_hidden_by_something_else_of_its_name():
    """`import nlsr.images.bicubic as b` gives the module."""
    hidden = []
    for name in FILES.keys() - {"nlsr"}:
        parent, _, last = name.rpartition(".")
        found = vars(import_module(parent)).get(last)
        hidden += [name] if found is not None and not isinstance(found, ModuleType) else []
    assert sorted(hidden) == []
