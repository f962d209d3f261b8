"""The forms of a report: HTML and Markdown from templates, JUnit XML, and JSON. They add no facts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

TEMPLATES = Path(__file__).with_name("templates")
# XML 1.0 has no such characters (section 2.2): one of them would make the whole file unreadable.
_NOT_IN_XML = {number: "�" for number in range(32) if chr(number) not in "\t\n\r"}
_JUNIT = {"skipped": "skipped", "error": "error", "failed": "failure", "passed unexpectedly": "failure"}


def render(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the report in all its forms, by file name."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["duration"] = duration
    pages = {name: environment.get_template(name).render(facts) for name in ("report.html", "report.md")}
    return pages | {"junit.xml": junit(facts), "report.json": json.dumps(facts, indent=1, ensure_ascii=False) + "\n"}


def duration(seconds: float) -> str:
    """Return a time as people write it."""
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def junit(facts: Mapping[str, Any]) -> str:
    """Return the tests in the format that CI servers read."""
    tests = facts["tests"]
    kinds = [_JUNIT.get(test["verdict"], "") for test in tests]
    counts = {"failures": kinds.count("failure"), "errors": kinds.count("error"), "skipped": kinds.count("skipped")}
    numbers = {"tests": str(len(tests)), "time": f"{facts['summary']['seconds']:.3f}"}
    numbers |= {name: str(count) for name, count in counts.items()}
    suites = ElementTree.Element("testsuites", numbers)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": facts["summary"]["project"], **numbers})
    for test, kind in zip(tests, kinds, strict=True):
        place = ".".join(dict.fromkeys((test["module"], test["classname"])))
        case = {"classname": place, "name": test["name"].rpartition(".")[2], "time": f"{test['seconds']:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", case)
        if kind:
            message = {"message": test["headline"].translate(_NOT_IN_XML)}
            ElementTree.SubElement(element, kind, message).text = test["text"].translate(_NOT_IN_XML)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"
