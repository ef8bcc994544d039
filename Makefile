# make run | test | check | ui | deploy | automations | lock | clean  Python 3.11 to 3.13 and make are all that is needed.
PYTHON ?= python3
SPEC ?= flows/specs/flights.yaml
UNTIL ?=
BLOCK ?=
TIMEZONE ?=
bin := .venv/bin
ready := .venv/.ready
extras = --extra examples --extra server --extra ebm --extra postgres
compile = $(bin)/python -m uv pip compile pyproject.toml --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header --quiet

# Nothing of ours phones home or writes outside this folder.
export AUDIT_HOME ?= $(CURDIR)/var
export PREFECT_HOME ?= $(CURDIR)/var/prefect
export DO_NOT_TRACK = 1
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export GX_ANALYTICS_ENABLED = false

.PHONY: run test test-all check ui deploy automations lock clean
run: $(ready)
	@$(bin)/python -m flows.pipeline "$(SPEC)" $(if $(UNTIL),--until $(UNTIL))

# Three tests at once, each on one core: one often waits for a server or a process, and threads cost more than they bring.
test: export OMP_NUM_THREADS = 1
test: $(ready)
	$(bin)/pytest -q -n 3 --dist worksteal -m "not slow"

test-all: $(ready)
	$(bin)/pytest -q -n 3 --dist worksteal

check: $(ready)
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports

ui: $(ready)
	@$(bin)/python -m deployments.local $(SPEC) $(zone)

# SPEC may name several. Their daily schedules are in UTC, or in TIMEZONE=Europe/Vienna.
zone = $(if $(TIMEZONE),--timezone $(TIMEZONE))

# The server that is named, else that of a running `make ui`.
api = PREFECT_API_URL="$${PREFECT_API_URL:-$$(sed -n s/^PREFECT_API_URL=//p $(AUDIT_HOME)/ui.env 2>/dev/null | grep . || echo http://127.0.0.1:4200/api)}"

deploy: $(ready)
	@$(api) $(bin)/python -m deployments.deploy $(SPEC) $(zone)
	@$(api) $(bin)/python -m deployments.automations --plan

automations: $(ready)
	@$(api) $(bin)/python -m deployments.automations --yes $(if $(BLOCK),--block $(BLOCK))

# The standard library's venv, then uv from the package index, then the lock: no tool is expected beforehand. Prefect's
# second UI asks an analytics host whatever is set; without its files the server does not offer it.
$(ready): requirements.lock pyproject.toml
	@echo "Making .venv (about 2 GB, once)"
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.12 ...")'
	@$(PYTHON) -m venv .venv
	@$(bin)/python -m pip install --quiet --no-cache-dir --disable-pip-version-check uv
	@$(bin)/python -m uv pip sync --quiet --compile-bytecode --no-cache --python $(bin)/python --require-hashes requirements.lock
	@$(bin)/python -m uv pip install --quiet --no-cache --python $(bin)/python --no-deps --editable .
	@rm -rf .venv/lib/python*/site-packages/prefect/server/ui-v2
	@mkdir -p $(PREFECT_HOME)
	@$(bin)/prefect server database upgrade -y >/dev/null
	@touch $@

# Two locks of one resolution: all of it for development, and what the container image installs.
lock:
	$(bin)/python -m pip install --quiet uv
	$(compile) $(extras) --group dev -o requirements.lock
	$(compile) $(extras) --constraints requirements.lock -o deployments/containers/requirements.lock

clean:
	rm -rf .venv var .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
