PYTHON ?= python3
SPEC ?= flows/specs/flights.yaml
venv := .venv/bin
ready := .venv/.ready

# The standard library's venv, then uv from the package index, then the lock: no tool is expected beforehand.
$(ready): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(venv)/python -m pip install --quiet --disable-pip-version-check uv
	$(venv)/uv pip sync --quiet --python $(venv)/python --require-hashes requirements.lock
	$(venv)/uv pip install --quiet --python $(venv)/python --no-deps --editable .
	@touch $@
