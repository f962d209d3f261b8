"""Rules about the code that hold because a test holds them: imports run one way, and the README knows every setting."""

import ast
import re
import unittest
from pathlib import Path

from shop.settings import PREFIX, Settings

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "shop"

# From the top down; a module imports only from layers below its own, never from its own or from above.
LAYERS = (
    {"shop.__main__"},
    {"shop.cli"},
    {"shop.commands"},
    {"shop.serving.server"},
    {"shop.serving.worker", "shop.wsgi"},
    {"shop.app", "shop.gateway"},
    {"shop.api"},
    {"shop.demo.past"},
    {"shop.demo.factories"},
    {"shop.domain.accounts", "shop.domain.orders"},
    {"shop.domain.throttle"},
    {"shop.domain.models"},
    {"shop.storage.database"},
    {"shop.storage.stalls", "shop.bodies"},
    {"shop.serving.proxies", "shop.serving.logs", "shop.serving.metrics", "shop.serving.exporter"},
    {"shop.storage.sessions", "shop.storage.statements"},
    {
        "shop.storage.migrations",
        "shop.security.tokens",
        "shop.security.cursors",
        "shop.security.passwords",
        "shop.embedded.server",
        "shop.settings",
        "shop.exactjson",
        "shop.ids",
    },
    {"shop.errors", "shop.embedded.programs", "shop.embedded.supervisor", "shop.storage.watchdog", "shop.backlog"},
)
# A leaf imports nothing of ours.
LEAVES = {"shop.errors", "shop.settings", "shop.ids", "shop.exactjson", "shop.storage.watchdog", "shop.backlog"}


def modules() -> dict[str, ast.Module]:
    """Return every module of the package, parsed, by its dotted name."""
    parsed = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        parsed[name] = ast.parse(path.read_text("utf-8"))
    return parsed


MODULES = modules()


def imported(tree: ast.Module) -> set[str]:
    """Return the dotted names that a module imports, modules of ours resolved."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                names.add(dotted if dotted in MODULES else str(node.module))
    return names


def layer_of(module: str) -> int:
    """Return the layer of a module, counted from the top; one of a package's modules is where the package is."""
    for number, layer in enumerate(LAYERS):
        if any(module == member or module.startswith(f"{member}.") for member in layer):
            return number
    raise LookupError(f"{module} has no place in LAYERS: add it where it belongs")


class ImportTest(unittest.TestCase):
    """Who may import whom."""

    def test_imports_run_one_way(self):
        for module, tree in MODULES.items():
            for name in imported(tree):
                if name not in MODULES or name == "shop" or name.split(".")[1:2] == module.split(".")[1:2]:
                    continue
                with self.subTest(module=module, imports=name):
                    self.assertGreater(layer_of(name), layer_of(module), "an import must point down the layers")

    def test_leaves_import_nothing_of_ours(self):
        for leaf in LEAVES:
            with self.subTest(leaf):
                self.assertEqual(set(), {name for name in imported(MODULES[leaf]) if name.startswith("shop")})

    def test_only_the_application_knows_falcon(self):
        knowing = {module for module, tree in MODULES.items() if "falcon" in imported(tree)}
        self.assertEqual(set(), {m for m in knowing if not m.startswith("shop.api") and m != "shop.app"})

    def test_http_does_not_know_peewee(self):
        for module, tree in MODULES.items():
            if module == "shop.app" or module.startswith("shop.api"):
                with self.subTest(module):
                    self.assertFalse(
                        {n for n in imported(tree) if n.split(".")[0] in ("peewee", "playhouse", "psycopg2")}
                    )

    def test_nothing_but_settings_reads_the_environment(self):
        # The embedded server passes an environment on to its programs, and the exporter tells its library, which
        # looks nowhere else, where its files are; neither takes a setting from it.
        for module, tree in MODULES.items():
            if module.startswith("shop.embedded.server") or module == "shop.serving.exporter":
                continue
            with self.subTest(module):
                read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)} & {"environ", "getenv"}
                self.assertEqual(set(), read)

    def test_every_module_says_what_it_owns(self):
        for module, tree in MODULES.items():
            with self.subTest(module):
                self.assertTrue(ast.get_docstring(tree))


class ReadmeTest(unittest.TestCase):
    """The README agrees with the code."""

    def setUp(self):
        self.readme = (ROOT / "README.md").read_text("utf-8")

    def test_every_setting_is_in_the_readme_as_it_is_in_the_code(self):
        for name, field in Settings.model_fields.items():
            variable = PREFIX + name.upper()
            with self.subTest(variable):
                row = re.search(rf"^\| `{variable}` \| (.*?) \| (.*) \|$", self.readme, re.M)
                self.assertIsNotNone(row, "the settings table has no such row")
                shown = f"`{field.default}`" if field.default not in (None, ()) else "none"
                self.assertEqual((shown, field.description), row.groups())

    def test_every_dependency_has_its_reason_in_the_readme(self):
        setup = (ROOT / "setup.py").read_text("utf-8")
        for package in re.findall(r'^ {4}"([A-Za-z0-9-]+)[>;\[]', setup, re.M):
            with self.subTest(package):
                row = re.search(rf"^\|[^|]*\b{re.escape(package)}\b[^|]*\|.+\|.+\|$", self.readme, re.M)
                self.assertIsNotNone(row, "the table of dependencies has no such row")


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
    if not path.exists():
        return False
    classes = [node for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.ClassDef)]
    return any(
        isinstance(node, ast.FunctionDef) and (found.name, node.name) == (class_name, test)
        for found in classes
        for node in found.body
    )
