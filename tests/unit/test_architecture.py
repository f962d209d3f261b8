"""Rules about the code and its documents that import-linter (pyproject.toml) cannot express."""

import ast
import re
import sys
import unittest
from functools import cache
from pathlib import Path

from shop.settings import PREFIX, Settings
from tests.support import settings_page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "shop"


@cache
def modules() -> dict[str, ast.Module]:
    """Return every module of the package, parsed, by its dotted name."""
    parsed = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        parsed[name] = ast.parse(path.read_text("utf-8"))
    return parsed


class ModuleTest(unittest.TestCase):
    """What each module does and says."""

    def test_nothing_but_settings_reads_the_environment(self):
        # The embedded server passes an environment on to its programs, and the exporter tells its library, which
        # looks nowhere else, where its files are; neither takes a setting from it. The worker removes the secrets.
        allowed = {
            "shop.settings",
            "shop.embedded.home",
            "shop.embedded.server",
            "shop.serving.exporter",
            "shop.serving.worker",
        }
        for module, tree in modules().items():
            if module in allowed:
                continue
            with self.subTest(module):
                read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} & {"environ", "getenv"}
                self.assertEqual(set(), read)

    def test_every_module_says_what_it_owns(self):
        for module, tree in modules().items():
            with self.subTest(module):
                self.assertTrue(ast.get_docstring(tree))


# The private names that may be imported from a dependency, each with the one module that may do it. Peewee translates
# the driver's exceptions with this function, and has no public name for it.
PRIVATE = {("shop.storage.database", "peewee.__exception_wrapper__")}


class DependencyTest(unittest.TestCase):
    """The code uses dependencies through their public interfaces, and replaces nothing in them."""

    def test_nothing_in_a_dependency_is_replaced(self):
        for module, tree in modules().items():
            with self.subTest(module):
                self.assertEqual([], replaced(tree))

    def test_no_private_name_of_a_dependency_is_used(self):
        for module, tree in modules().items():
            with self.subTest(module):
                self.assertEqual([], sorted(name for name in private(tree) if (module, name) not in PRIVATE))

    def test_the_exceptions_are_still_needed(self):
        used = {(module, name) for module, tree in modules().items() for name in private(tree)}
        self.assertEqual(set(), PRIVATE - used)

    def test_each_way_to_replace_a_name_is_found(self):
        for statement in (
            "mp.wrap = 1",
            "mp.wrap: int = 1",
            "mp.wrap += 1",
            "a, (mp.wrap, b) = 1, (2, 3)",
            "mp.Class.method = 1",
            "mp.registry['x'] = 1",
            "del mp.wrap",
            "for mp.wrap in (): pass",
            "with f() as mp.wrap: pass",
            "setattr(mp, 'wrap', 1)",
            "delattr(mp.Class, 'method')",
            "mp.__dict__.update(wrap=1)",
            "vars(mp)['wrap'] = 1",
            "vars(mp).update(wrap=1)",
            "from unittest import mock",
            "import unittest.mock as m",
        ):
            with self.subTest(statement):
                self.assertEqual(1, len(replaced(ast.parse(f"from granian.server import mp\n{statement}"))))
        harmless = "import peewee, os, shop.ids\nx = peewee.a\nx.y = 1\nself.z = peewee.b()\nshop.ids.c = os.d = 1"
        self.assertEqual([], replaced(ast.parse(harmless)))

    def test_each_way_to_use_a_private_name_is_found(self):
        for source, name in {
            "from granian._granian import Worker": "granian._granian.Worker",
            "from peewee import _private": "peewee._private",
            "import granian._granian": "granian._granian",
            "import granian\ngranian._granian.Worker()": "granian._granian",
            "from granian.server import mp\nmp.Class._method()": "mp._method",
            "from granian.server import mp\ngetattr(mp, '_wrap')": "mp._wrap",
        }.items():
            with self.subTest(source):
                self.assertEqual({name}, private(ast.parse(source)))
        self.assertEqual(set(), private(ast.parse("from __future__ import annotations\nimport os\nos._exit(0)")))


def is_dependency(dotted: str) -> bool:
    """Tell whether an import's name is neither ours nor the standard library's."""
    return dotted.partition(".")[0] not in {"shop", "__future__", *sys.stdlib_module_names}


@cache
def names_of_dependencies(tree: ast.Module) -> set[str]:
    """Return what a module calls the things that it imports from dependencies."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names if is_dependency(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and is_dependency(str(node.module)):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def root(node: ast.AST) -> str:
    """Return the name that an expression such as ``a.b["c"].d`` or ``vars(a)`` begins with, or nothing."""
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute | ast.Subscript):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "vars" and node.args:
            node = node.args[0]
        else:
            return ""
    return node.id


def replaced(tree: ast.Module) -> list[str]:
    """Return every place of a module that assigns to a name in a dependency, or deletes one."""
    names = names_of_dependencies(tree)
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                is_found = root(node) in names
            case ast.Call(func=ast.Name(id="setattr" | "delattr"), args=[target, *_]):
                is_found = root(target) in names
            case ast.Call(func=ast.Attribute(value=ast.Call() | ast.Attribute(attr="__dict__") as target)):
                is_found = root(target) in names
            case ast.Import(names=aliases):
                is_found = any(alias.name.startswith("unittest") for alias in aliases)
            case ast.ImportFrom(module="unittest" | "unittest.mock"):
                is_found = True
            case _:
                continue
        if is_found:
            found.append(ast.unparse(node))
    return found


@cache
def private(tree: ast.Module) -> set[str]:
    """Return the private names of dependencies that a module imports, or reaches through what it imports."""
    names = names_of_dependencies(tree)
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                dotted = [alias.name for alias in aliases if is_dependency(alias.name)]
            case ast.ImportFrom(module=str(module), names=aliases) if is_dependency(module):
                dotted = [f"{module}.{alias.name}" for alias in aliases]
            case ast.Attribute(value=value, attr=attribute) if root(value) in names:
                dotted = [f"{root(value)}.{attribute}"]
            case ast.Call(func=ast.Name(id="getattr"), args=[target, ast.Constant(str(attribute)), *_]):
                dotted = [f"{root(target)}.{attribute}"] if root(target) in names else []
            case _:
                continue
        found |= {name for name in dotted if any(part.startswith("_") for part in name.split("."))}
    return found


class DocumentsTest(unittest.TestCase):
    """The documents agree with the code."""

    def test_settings_page_is_current(self):
        page = (ROOT / "docs" / "settings.md").read_text("utf-8")
        self.assertEqual(settings_page.render(), page, "python -m tests.support.settings_page > docs/settings.md")

    def test_every_dependency_has_its_reason(self):
        setup = (ROOT / "setup.py").read_text("utf-8")
        reasons = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
        for package in re.findall(r'^ {4}"([A-Za-z0-9-]+)[>;\[]', setup, re.M):
            with self.subTest(package):
                row = re.search(rf"^\|[^|]*\b{re.escape(package)}\b[^|]*\|.+\|.+\|$", reasons, re.M)
                self.assertIsNotNone(row, "docs/dependencies.md has no row for it")

    def test_every_page_is_in_the_index(self):
        index = (ROOT / "docs" / "README.md").read_text("utf-8")
        for page in (ROOT / "docs").glob("*.md"):
            if page.name != "README.md":
                self.assertIn(f"({page.name})", index)

    def test_every_local_link_leads_somewhere(self):
        pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
        for page in pages:
            for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
                with self.subTest(page=page.name, link=link):
                    self.assertTrue((page.parent / link).exists())

    def test_readme_is_short(self):
        self.assertLessEqual(len((ROOT / "README.md").read_text("utf-8").splitlines()), 150)


class ComposeTest(unittest.TestCase):
    """compose.yaml agrees with the code."""

    def test_every_setting_reaches_the_service(self):
        passed_on = re.findall(r"^ +(SHOP_\w+):", (ROOT / "compose.yaml").read_text("utf-8"), re.M)
        # The image says where to listen, and has no embedded database.
        for name in Settings.model_fields.keys() - {"host", "port", "data_dir"}:
            with self.subTest(name):
                self.assertIn(PREFIX + name.upper(), passed_on)


class SecurityTest(unittest.TestCase):
    """SECURITY.md promises only what a test holds."""

    def test_every_test_that_it_names_exists(self):
        rows = re.findall(r"^\| .* \|$", (ROOT / "SECURITY.md").read_text("utf-8"), re.M)[1:]
        self.assertGreater(len(rows), 10)
        for row in rows:
            names = re.findall(r"`(tests\.[\w.]+)`", row)
            with self.subTest(row.split("|")[1].strip()):
                self.assertTrue(names, "a defence names the test that shows it")
                self.assertEqual([], [name for name in names if not is_a_test(name)])


def is_a_test(name: str) -> bool:
    """Tell whether `name`, as unittest takes it, is a test; nothing is imported."""
    module, class_name, test = name.rsplit(".", 2)
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path.exists() and (class_name, test) in methods(path)


@cache
def methods(path: Path) -> set[tuple[str, str]]:
    """Return the methods of a module's classes, with their classes."""
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return {(found.name, node.name) for found in classes for node in found.body if isinstance(node, ast.FunctionDef)}
