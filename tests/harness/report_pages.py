"""The forms of the report: HTML and Markdown from templates, JUnit's XML, and JSON. They show facts and add none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

TEMPLATES = Path(__file__).with_name("templates")
# A character that XML 1.0 does not have (section 2.2) would make the whole file unreadable.
_NOT_IN_XML = {number: "�" for number in range(32) if chr(number) not in "\t\n\r"}


def render(facts: Mapping[str, Any]) -> dict[str, str]:
    """Return the report in all its forms, by file name.

    Args:
        facts: As `tests.harness.report_facts.gather` returns them.
    """
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
    """Return a time as a person would say it."""
    if seconds >= 60:
        return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.1f} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"


def junit(facts: Mapping[str, Any]) -> str:
    """Return the tests in the form that CI servers read."""
    summary, tests = facts["summary"], facts["tests"]
    errors = sum(test["verdict"] == "error" for test in tests)
    counts = {
        "tests": str(len(tests)),
        "failures": str(summary["failed"] - errors),
        "errors": str(errors),
        "skipped": str(summary["skipped"]),
    }
    suite = ElementTree.Element("testsuite", {"name": summary["name"], "time": f"{summary['seconds']:.3f}", **counts})
    for test in tests:
        place = f"{test['module']}.{test['classname']}" if test["classname"] != test["name"] else test["classname"]
        case = {"classname": place, "name": test["name"].rpartition(".")[2], "time": f"{test['seconds']:.3f}"}
        element = ElementTree.SubElement(suite, "testcase", case)
        text = test["text"].translate(_NOT_IN_XML)
        match test["verdict"]:
            case "skipped":
                ElementTree.SubElement(element, "skipped", {"message": text})
            case "error":
                ElementTree.SubElement(element, "error", {"message": _last_line(text)}).text = text
            case "failed" | "passed unexpectedly":
                ElementTree.SubElement(element, "failure", {"message": _last_line(text)}).text = text
    suites = ElementTree.Element("testsuites", {"time": f"{summary['seconds']:.3f}", **counts})
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _last_line(text: str) -> str:
    return text.splitlines()[-1] if text else ""
