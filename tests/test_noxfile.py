"""Functions of the noxfile; its sessions need minutes and a network and are not run here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from packaging.requirements import Requirement

import noxfile
from tests.conftest import ROOT


def test_the_lowest_version_of_a_range() -> None:
    ranges = ["numpy>=1.26", "mkdocstrings[python]>=1", "rich>=13.8,<16"]
    assert noxfile.lowest(ranges) == ["mkdocstrings==1", "numpy==1.26", "rich==13.8"]
    assert noxfile.lowest(ranges, but=["numpy"]) == ["mkdocstrings==1", "rich==13.8"]


@pytest.mark.parametrize("range_", ["numpy", "numpy<2", "numpy!=1.26"])
def test_a_requirement_without_a_lowest_version_is_an_error(range_: str) -> None:
    with pytest.raises(ValueError, match=r"^numpy"):
        noxfile.lowest([range_])


def test_every_dependency_of_users_has_its_lowest_version_tested() -> None:
    pins = {Requirement(pin).name for pin in noxfile.lowest(noxfile.REQUIREMENTS, but=["torch"])}
    assert {"numpy", "typer", "jinja2", "transformers", "universal-pathlib"} <= pins
    assert not {"torch", "pytest"} & pins


def test_the_oldest_python_is_the_one_that_is_required() -> None:
    assert noxfile.PYPROJECT["project"]["requires-python"] == f">={noxfile.PYTHONS[0]}"


def test_an_environment_variable_frees_torch() -> None:
    command = [sys.executable, "-c", "import noxfile; print(noxfile.CONSTRAIN)"]
    freed = subprocess.run(
        command, cwd=ROOT, env={"ANY_TORCH": "1"}, capture_output=True, text=True
    )
    assert (freed.stdout, noxfile.CONSTRAIN) == ("()\n", ("-c", "constraints.txt"))


def test_an_audit_separates_known_from_unknown_packages() -> None:
    vulnerability = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}
    report = {
        "dependencies": [
            {"name": "good", "version": "1", "vulns": []},
            {"name": "bad", "version": "1.9", "vulns": [vulnerability]},
            {"name": "stranger", "skip_reason": "Dependency not found"},
        ],
        "fixes": [],
    }
    audit = noxfile.read_audit(json.dumps(report))
    assert audit.known == ["good", "bad"]
    assert audit.unknown == ["stranger"]
    assert audit.vulnerabilities == ["bad 1.9: PYSEC-1, fixed in 2.0"]


@pytest.mark.parametrize(
    ("last", "network"),
    [
        ("requests.exceptions.ConnectionError: HTTPSConnectionPool(host='…', port=443)", True),
        ("pip_audit._service.interface.ServiceError", True),
        ("ERROR:pip_audit._cli:Tip: your network may be blocking this service.", True),
        ("ERROR:pip_audit._cli:invalid requirements input: pins.txt", False),
        ("KeyError: 'vulns'", False),
        ("", False),
    ],
)
def test_only_the_network_excuses_an_audit(last: str, network: bool) -> None:
    assert noxfile.unreached(f"Traceback (most recent call last):\n{last}\n") == network


def bill(**root: str) -> dict[str, Any]:
    return {
        "metadata": {"component": {"name": "rmtcli", **root}},
        "components": [{"name": "numpy"}, {"name": "Typing_Extensions"}],
    }


def test_a_complete_bill_has_no_faults() -> None:
    whole = json.dumps(bill(version="1"))
    assert noxfile.bill_faults(whole, ["numpy>=1", "typing-extensions>=4"]) == []


def test_the_faults_of_a_bill_are_listed() -> None:
    text = json.dumps({**bill(), "url": "file:///somewhere/rmtcli.whl"})
    faults = ["lacks torch", "has no version of rmtcli", "contains file:"]
    assert noxfile.bill_faults(text, ["numpy>=1", "torch>=2"]) == faults
