"""What of a deployment or an automation goes on record without its secrets; with a server: tests/deployments."""

import json
from pathlib import Path
from typing import Any

import pytest

from audit.recording.initialise import initialise
from flows import _deployed as deployed

S = "planted"
PLACES: dict[str, dict[str, Any]] = {
    "clone": {"pull_steps": [{"prefect.deployments.steps.git_clone": {"access_token": S, "credentials": {"user": S}}}]},
    "script": {"pull_steps": [{"prefect.deployments.steps.run_shell_script": {"env": {"DB": S}}}]},
    "parameters": {"actions": [{"type": "run-deployment", "parameters": {"db_password": S}}]},
    "action": {"actions": [{"job_variables": {"env": {"AUDIT_ALERT_URL": f"slack://{S}"}}}]},
    "container": {"job_variables": {"container": {"env": {"DB": S}}}},
    "kubernetes": {"job_variables": {"spec": [{"env": [{"name": "DB", "value": S}, {"name": "K", "from": {"a": S}}]}]}},
}


@pytest.mark.parametrize("told", PLACES.values(), ids=PLACES)
def test_a_secret_is_a_keyed_hash_wherever_it_stands(home: Path, told: dict[str, Any]) -> None:
    initialise()
    shown = str(deployed.hidden(told))
    other = str(deployed.hidden(json.loads(json.dumps(told).replace(S, "another"))))
    assert S not in shown and "keyed:" in shown
    assert shown != other, "a change of it is noticed"


def test_what_is_no_secret_is_told_as_it_is(home: Path) -> None:
    told = {"pull_steps": [{"git_clone": {"repository": "r", "branch": None}}], "tags": ["a"], "paused": False}
    assert deployed.hidden(told) == told
