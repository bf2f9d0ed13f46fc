"""Which Pythons and versions the project works with; what it stands on, audited and listed.

Options after ``--`` go to pytest, or name the file of the bill of materials. The Pythons are those
of the classifiers in pyproject.toml, the lowest versions those of its ranges.
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
nox.options.sessions = ["tests", "minimum", "newest", "audit", "sbom"]
nox.options.error_on_missing_interpreters = True

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
#: What a user can ask for. The tools of ``dev`` are nobody's dependencies.
EXTRAS = {k: v for k, v in PYPROJECT["project"]["optional-dependencies"].items() if k != "dev"}
REQUIREMENTS = [*PYPROJECT["project"]["dependencies"], *chain.from_iterable(EXTRAS.values())]

#: One torch for all sessions: other wheels of it, with the CUDA libraries that they ask for, are
#: gigabytes. ``ANY_TORCH=1 nox …`` takes the lowest or the newest one, as of every other package.
CONSTRAINTS = Path("constraints.txt")
CONSTRAIN = () if os.environ.get("ANY_TORCH") else ("-c", str(CONSTRAINTS))

#: Known vulnerabilities that do not fail the audit: their id, and why they do not concern rmtcli.
ACCEPTED: dict[str, str] = {}
#: Asked in this order; the second only where the first knows nothing.
SERVICES = ("pypi", "osv")
#: Where pip-audit's last line begins so, the network is at fault and not pip-audit.
NETWORK_ERRORS = re.compile(r"(requests|urllib3|pip_audit\._service)\.|.*Tip: your network may be")


def lowest(requirements: Iterable[str], but: Collection[str] = ()) -> list[str]:
    """A constraint to the lowest version for each requirement: ``name>=1.2`` gives ``name==1.2``.

    Raises:
        ValueError: a requirement has no lowest version.
    """
    pins = {}
    for requirement in map(Requirement, requirements):
        bounds = [each.version for each in requirement.specifier if each.operator == ">="]
        if len(bounds) != 1:
            raise ValueError(f"{requirement}: must say '>=' once, for its lowest version is tested")
        if requirement.name not in but:
            pins[requirement.name] = f"{requirement.name}=={bounds[0]}"
    return sorted(pins.values())


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests with the newest versions that agree with one another."""
    session.install(*CONSTRAIN, "-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHONS[0])
def minimum(session: nox.Session) -> None:
    """Run the tests with the lowest version of every dependency, of all extras too."""
    fixed = [Requirement(line).name for line in CONSTRAINTS.read_text().split() if CONSTRAIN]
    pins = Path(session.create_tmp()) / "minimum.txt"
    pins.write_text("\n".join(lowest(REQUIREMENTS, but=fixed)))
    session.install(*CONSTRAIN, "-c", str(pins), "-e", ".[dev]")
    # An old release calls what a newer one beneath it deprecates: neither is the project's code.
    session.run("pytest", "-W", "ignore::DeprecationWarning", *session.posargs)


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """Run the tests with the newest versions, and say which newer ones something holds back."""
    session.install(*CONSTRAIN, "--upgrade", "--upgrade-strategy", "eager", "-e", ".[dev]")
    ours = {canonicalize_name(Requirement(each).name) for each in REQUIREMENTS}
    for package in listed(session, str(Path(session.bin, "python")), "--outdated"):
        if canonicalize_name(package["name"]) in ours:
            session.warn("held back: {name} {version}, of {latest_version}".format_map(package))
    session.run("pytest", *session.posargs)


def listed(session: nox.Session, python: str, *options: str) -> list[dict[str, str]]:
    """What ``pip list`` says of an interpreter's packages."""
    command = ["python", "-m", "pip", "--python", python, "list", "--format=json", *options]
    return json.loads(session.run(*command, silent=True, stderr=subprocess.DEVNULL))


def installed(session: nox.Session, extras: Collection[str] = ()) -> str:
    """The interpreter of an environment with the project as users get it, and nothing else.

    It is not the session's own: what an audit or a bill needs for itself has no place in it.
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
    """What a service says: names of packages, and a line for each vulnerability."""

    known: list[str]
    unknown: list[str]
    vulnerabilities: list[str]


def read_audit(report: str) -> Audit:
    """Read pip-audit's JSON, and tell the packages that the service knows from the others.

    pip-audit itself calls it a success where a service knows none of them: a mirror of an index
    that has no vulnerabilities to tell of answers as if there were no such package.
    """
    known, unknown, found = [], [], []
    for package in json.loads(report)["dependencies"]:
        (unknown if "skip_reason" in package else known).append(package["name"])
        for each in package.get("vulns", ()):
            mended = ", ".join(each["fix_versions"]) or "no version"
            found.append(f"{package['name']} {package['version']}: {each['id']}, mended: {mended}")
    return Audit(known, unknown, found)


def unreached(output: str) -> bool:
    """Whether pip-audit, which printed this and wrote no report, had no answer from the service."""
    return bool(NETWORK_ERRORS.match(output.strip().rpartition("\n")[2]))


def ask(session: nox.Session, service: str, pins: Path) -> Audit | str:
    """What a service knows of pinned packages; or, in a few words, why it tells nothing."""
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
    """Fail where a dependency, of any extra too, has a known vulnerability."""
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
    session.log(f"{service} knows {len(answer.known)} packages, and nothing against them")


def bill_faults(text: str, requirements: Iterable[str]) -> list[str]:
    """What is wrong with a bill of materials: what it lacks, and what a machine left in it."""
    bill: Mapping[str, Any] = json.loads(text)
    root = bill["metadata"]["component"]
    names = {canonicalize_name(component["name"]) for component in bill["components"]}
    missing = {canonicalize_name(Requirement(each).name) for each in requirements} - names
    faults = [f"lacks {name}" for name in sorted(missing)]
    if not root.get("version"):
        faults.append(f"tells no version of {root['name']}")
    # Of what lies on a disk, pip keeps the place; of what comes from an index, it does not.
    return faults + [f"names {place}" for place in ("file:", str(Path.cwd())) if place in text]


@nox.session
def sbom(session: nox.Session) -> None:
    """Write the CycloneDX bill of what it needs to run, to dist/ or the file after ``--``."""
    project = PYPROJECT["project"]
    python = installed(session)
    folder = Path(session.create_tmp())
    (wheel,) = folder.glob("*.whl")
    # The version is dynamic, and cyclonedx-py reads what is written.
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
