# What a developer types. The work is done by bin/ and by the tools, so that everything here also goes without make.
PYTHON := .venv/bin/python
TOOLS := build/tools/bin
# One lock for every system and every Python from 3.11. What is in it keeps its version unless asked otherwise.
PIN := $(TOOLS)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# It warns that pyproject.toml names no dependencies; ours stand in requirements.txt.
SBOM := $(TOOLS)/python -W ignore::UserWarning -m cyclonedx_py environment

.PHONY: menu setup run worker migrate test test-all test-other-python e2e faults fuzz bench wheel check compose-check image-check workflow-check format lock audit sbom tools clean

menu: ## show this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' Makefile

setup: ## install everything for development into .venv
	@sh bin/launch.sh setup --dev

run: ## start the service
	@./bin/start.sh

worker: setup ## run another delivery worker
	@$(PYTHON) -m app worker

migrate: setup ## bring the database to the current schema
	@$(PYTHON) -m app migrate

test: ## run the quick tests: five minutes on two cores
	@./bin/test.sh

test-all: ## run every test, as CI does
	@./bin/test.sh all

test-other-python: setup tools ## run the tests of mail on a second Python (OTHER_PYTHON=... names it)
	@$(PYTHON) bin/other_python.py

e2e: ## run only the end-to-end tests
	@./bin/test.sh e2e

faults: setup ## break things on purpose and count what is lost
	@FAULTS=full $(PYTHON) -m pytest tests/faults -q -s -m slow

fuzz: setup ## make ten thousand odd requests of the OpenAPI document, and hold it to the answers (SEED=... repeats)
	@FUZZ=full $(PYTHON) -m pytest tests/http/reference/test_openapi.py -q -s -m slow

bench: setup ## measure the service
	@$(PYTHON) -m bench

wheel: setup tools ## build the wheel, install it alone, and pass the end-to-end check with it
	@$(PYTHON) bin/wheel.py

check: setup compose-check workflow-check ## run every check that is not a test
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(PYTHON) .venv/bin/lint-imports
	for script in bin/*.sh; do sh -n "$$script" || exit 1; done

compose-check: setup ## check the compose files against the compose specification
	$(PYTHON) -m check_jsonschema --builtin-schema vendor.compose-spec docker-compose.yml ops/compose.production.yml

image-check: setup ## see that amd64 and arm64 have a wheel of every package of the image
	@for machine in x86_64 aarch64; do \
		$(PYTHON) -m pip install --quiet --dry-run --no-deps --target build/image-check --only-binary :all: \
			--implementation cp --python-version 3.13 --abi cp313 --abi abi3 --abi none \
			--platform manylinux_2_34_$$machine --platform manylinux_2_28_$$machine \
			--platform manylinux_2_17_$$machine --platform manylinux2014_$$machine \
			--require-hashes --requirement requirements.lock || exit 1; \
		echo "every package has a wheel for $$machine"; \
	done

workflow-check: setup ## check the workflows of GitHub against their schema
	$(PYTHON) -m check_jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: setup ## format the code and mend what can be mended
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

lock: tools ## pin every package by version and hash (options=--upgrade for what is newest)
	$(PIN) requirements.txt --output-file requirements.lock $(options)
	$(PIN) requirements-dev.txt --constraint requirements.lock --output-file requirements-dev.lock $(options)
	$(PIN) requirements-tools.txt --output-file requirements-tools.lock $(options)

audit: setup ## look for known vulnerabilities in what gets installed
	@$(PYTHON) bin/audit.py --look; found=$$?; \
	if [ $$found -eq 3 ]; then exit 0; fi; \
	[ $$found -eq 0 ] && $(MAKE) --no-print-directory tools && $(TOOLS)/python bin/audit.py $(options)

sbom: tools ## write build/sbom.json, the CycloneDX list of what runs the service
	$(TOOLS)/uv venv --quiet --clear --python $(TOOLS)/python build/runtime
	$(TOOLS)/uv pip install --quiet --python build/runtime --require-hashes --requirement requirements.lock
	$(SBOM) --output-reproducible --pyproject pyproject.toml --output-file build/sbom.json build/runtime

tools: ## install what lock, audit and sbom need into build/tools
	@sh bin/launch.sh setup --tools

clean: ## remove .venv, build and caches; the data in .data stays
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
