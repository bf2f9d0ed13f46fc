"""Tests on every supported Python and range of versions; audit and list of the dependencies.

Options after ``--`` go to pytest, or name the file of the bill of materials. The Pythons come from
the classifiers in pyproject.toml, the lowest versions from its ranges.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import nox
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

nox.needs_version = ">=2025.5"
nox.options.sessions = ["tests", "minimum", "newest", "quantised", "audit", "sbom"]
nox.options.error_on_missing_interpreters = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
#: Extras for users; ``dev`` has tools that no user needs.
EXTRAS = {k: v for k, v in PYPROJECT["project"]["optional-dependencies"].items() if k != "dev"}
REQUIREMENTS = [*PYPROJECT["project"]["dependencies"], *chain.from_iterable(EXTRAS.values())]

#: All sessions use one torch, because other wheels and the CUDA libraries that they require take
#: gigabytes. ``ANY_TORCH=1 nox …`` takes the lowest or newest torch, as for every other package.
CONSTRAINTS = Path("constraints.txt")
CONSTRAIN = () if os.environ.get("ANY_TORCH") else ("-c", str(CONSTRAINTS))

#: Known vulnerabilities that do not fail the audit: id -> why it does not affect rmtcli.
ACCEPTED: dict[str, str] = {}
#: Services in the order of queries; the second is used only if the first has no answer.
SERVICES = ("pypi", "osv")
#: Beginnings of pip-audit's last line that indicate an error of the network, not of pip-audit.
NETWORK_ERRORS = re.compile(r"(requests|urllib3|pip_audit\._service)\.|.*Tip: your network may be")


def lowest(requirements: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """Pin each requirement to its lowest version: ``name>=1.2`` gives ``name==1.2``.

    Raises:
        ValueError: a requirement has no lowest version.
    """
    pins = {}
    for requirement in map(Requirement, requirements):
        bounds = [each.version for each in requirement.specifier if each.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(
                f"{requirement}: must have one '>=', because its lowest version is tested"
            )
        if requirement.name not in but:
            pins[requirement.name] = f"{requirement.name}=={bounds[0]}"
    return sorted(pins.values())


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the newest mutually compatible versions."""
    session.install(*CONSTRAIN, "-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """Run the tests with the lowest version of every dependency, including those of extras."""
    fixed = [Requirement(line).name for line in CONSTRAINTS.read_text().split() if CONSTRAIN]
    pins = Path(session.create_tmp()) / "minimum.txt"
    pins.write_text("\n".join(lowest(REQUIREMENTS, but=fixed)))
    session.install(*CONSTRAIN, "-c", str(pins), "-e", ".[dev]")
    # Old releases use features that newer dependencies deprecate: neither is the project's code.
    session.run("pytest", "-W", "ignore::DeprecationWarning", *session.posargs)


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """Run the tests with the newest versions, and name packages that others hold back."""
    session.install(*CONSTRAIN, "--upgrade", "--upgrade-strategy", "eager", "-e", ".[dev]")
    ours = {canonicalize_name(Requirement(each).name) for each in REQUIREMENTS}
    for package in listed(session, str(Path(session.bin, "python")), "--outdated"):
        if canonicalize_name(package["name"]) in ours:
            session.warn("held back: {name} {version}, newest {latest_version}".format_map(package))
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def quantised(session: nox.Session) -> None:
    """Read directories that other tools have quantised, with these tools.

    They are not in ``dev``, because transformers imports each of them that it can.
    """
    session.install(*CONSTRAIN, "-e", ".[dev,quantised]")
    session.run("pytest", "tests/checkpoint/test_dequantised.py", "-m", "", *session.posargs)


def listed(session: nox.Session, python: str, *options: str) -> list[dict[str, str]]:
    """An interpreter's packages according to ``pip list``."""
    command = ["python", "-m", "pip", "--python", python, "list", "--format=json", *options]
    return json.loads(session.run(*command, silent=True, stderr=subprocess.DEVNULL))


def installed(session: nox.Session, extras: Collection[str] = ()) -> str:
    """Create an environment with the project as users get it; return its interpreter.

    It is separate from the session's environment, which has the tools of audit and bill.
    """
    folder = Path(session.create_tmp())
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(folder / "installed"))
    python = str(folder / "installed" / Path(session.bin).name / "python")
    for old in folder.glob("*.whl"):
        old.unlink()
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), ".")
    (wheel,) = folder.glob("*.whl")
    target = f"{wheel}[{','.join(extras)}]" if extras else str(wheel)
    session.run("python", "-m", "pip", "--python", python, "install", "--quiet", *CONSTRAIN, target)
    return python


class Audit(NamedTuple):
    """A service's answer: names of packages, and one line per vulnerability."""

    known: list[str]
    unknown: list[str]
    vulnerabilities: list[str]


def read_audit(report: str) -> Audit:
    """Read pip-audit's JSON, and separate known from unknown packages.

    pip-audit itself succeeds even if a service knows none of the packages: an index mirror without
    data on vulnerabilities answers as if the packages did not exist.
    """
    known, unknown, vulnerabilities = [], [], []
    for package in json.loads(report)["dependencies"]:
        (unknown if "skip_reason" in package else known).append(package["name"])
        for each in package.get("vulns", ()):
            fixed = ", ".join(each["fix_versions"]) or "no version"
            line = f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}"
            vulnerabilities.append(line)
    return Audit(known, unknown, vulnerabilities)


def unreached(output: str) -> bool:
    """Whether pip-audit's output shows that the service could not be reached."""
    return bool(NETWORK_ERRORS.match(output.strip().rpartition("\n")[2]))


def ask(session: nox.Session, service: str, pins: Path) -> Audit | str:
    """Query a service about pinned packages; return its answer, or why there is none."""
    report = pins.with_suffix(".json")
    report.unlink(missing_ok=True)
    output = session.run(
        *("pip-audit", "--vulnerability-service", service, "--progress-spinner", "off"),
        *("--requirement", str(pins), "--no-deps", "--disable-pip"),
        *("--format", "json", "--output", str(report)),
        *(f"--ignore-vuln={each}" for each in ACCEPTED),
        silent=True,
        success_codes=(0, 1),
    )
    if not report.exists():
        return "no answer" if unreached(output) else session.error(output)
    answer = read_audit(report.read_text())
    return answer if answer.known else "knows none of the packages"


@nox.session
def audit(session: nox.Session) -> None:
    """Fail if a dependency, including those of extras, has a known vulnerability."""
    packages = listed(session, installed(session, EXTRAS))
    pins = Path(session.create_tmp()) / "pins.txt"
    pins.write_text(
        "\n".join(
            # Services know public versions, and 2.13.0+cpu is not one.
            f"{package['name']}=={Version(package['version']).public}"
            for package in packages
            if package["name"] != PYPROJECT["project"]["name"]
        )
    )
    session.install("pip-audit>=2.9")
    for vulnerability, reason in ACCEPTED.items():
        session.warn(f"accepted: {vulnerability}: {reason}")
    silent = []
    for service in SERVICES:
        answer = ask(session, service, pins)
        if isinstance(answer, Audit):
            break
        silent.append(f"{service}: {answer}")
    else:
        session.skip(f"NOTHING WAS AUDITED: no service was reached ({'; '.join(silent)})")
    for name in answer.unknown:
        session.warn(f"not audited: {name}, which {service} does not know")
    if answer.vulnerabilities:
        session.error("\n".join(["known vulnerabilities:", *answer.vulnerabilities]))
    session.log(f"{service} knows {len(answer.known)} packages and no vulnerabilities of them")


def bill_faults(text: str, requirements: Iterable[str]) -> list[str]:
    """Faults of a bill of materials: missing components, and traces of the local machine."""
    bill: Mapping[str, Any] = json.loads(text)
    root = bill["metadata"]["component"]
    names = {canonicalize_name(component["name"]) for component in bill["components"]}
    missing = {canonicalize_name(Requirement(each).name) for each in requirements} - names
    faults = [f"lacks {name}" for name in sorted(missing)]
    if not root.get("version"):
        faults.append(f"has no version of {root['name']}")
    # pip records the local path of a package that was installed from disk.
    return faults + [f"contains {path}" for path in ("file:", str(Path.cwd())) if path in text]


@nox.session
def sbom(session: nox.Session) -> None:
    """Write the CycloneDX bill of runtime dependencies to dist/ or to the file after ``--``."""
    project = PYPROJECT["project"]
    python = installed(session)
    folder = Path(session.create_tmp())
    (wheel,) = folder.glob("*.whl")
    # The version is dynamic, and cyclonedx-py reads only static metadata.
    root = {key: project[key] for key in ("name", "description", "license")}
    root["version"] = wheel.name.split("-")[1]
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in root.items())
    (folder / "pyproject.toml").write_text(f"[project]\n{table}\n")
    bill = Path(*session.posargs or ("dist", f"{project['name']}-{root['version']}.cdx.json"))
    bill.parent.mkdir(parents=True, exist_ok=True)
    session.install("cyclonedx-bom>=7")
    session.run(
        *("cyclonedx-py", "environment", "--validate", "--output-reproducible"),
        *("--mc-type", "library", "--pyproject", str(folder / "pyproject.toml")),
        *("--output-format", "JSON", "--output-file", str(bill), python),
    )
    if faults := bill_faults(bill.read_text(), project["dependencies"]):
        session.error(f"{bill}: " + "; ".join(faults))
    session.log(f"{bill}: {len(json.loads(bill.read_text())['components'])} packages")
