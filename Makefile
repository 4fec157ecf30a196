# What a developer types. The work is done by bin/ and by the tools, so that everything here also goes without make.
PYTHON := .venv/bin/python

.PHONY: menu setup run worker migrate test e2e faults bench check compose-check format clean

menu: ## show this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## install everything for development into .venv
	@sh bin/launch.sh setup --dev

run: ## start the service
	@./bin/start.sh

worker: setup ## run another delivery worker
	@$(PYTHON) -m app worker

migrate: setup ## bring the database to the current schema
	@$(PYTHON) -m app migrate

test: ## run every test
	@./bin/test.sh

e2e: ## run only the end-to-end tests
	@./bin/test.sh e2e

faults: setup ## break things on purpose and count what is lost
	@FAULTS=full $(PYTHON) -m pytest tests/faults -q -s -n 0

bench: setup ## measure the service
	@$(PYTHON) -m bench

check: setup compose-check ## run every check that is not a test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) .venv/bin/lint-imports
	for script in bin/*.sh; do sh -n "$$script" || exit 1; done

compose-check: setup ## check docker-compose.yml against the compose specification
	$(PYTHON) -m check_jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: setup ## format the code and mend what can be mended
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

clean: ## remove .venv and caches; the data in .data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
