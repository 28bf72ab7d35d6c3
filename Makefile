# Everything happens in .venv; nothing outside the directory is changed but download caches.
# ARGS goes on to pytest or to the benchmark:  make test ARGS="tests/policy -k owner"

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=
UPGRADE ?=
FAULT_N ?=
TIMING_N ?=
REFRESH_N ?=
REVOKE_N ?=
KIDS_N ?=
NODES_S ?=
ROTATE_S ?=

BIN := .venv/bin
# A .venv that is there looks after itself, quickly; `make setup PYTHON=…` chooses another interpreter.
INSTALLER := $(if $(filter file,$(origin PYTHON)),$(or $(wildcard $(BIN)/python),$(PYTHON)),$(PYTHON))
SOURCES := $(wildcard src tests examples bench requirements)
PYTEST := $(BIN)/python -m pytest -rfEs
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header

.DEFAULT_GOAL := help
.PHONY: help setup run test check soak bench system lock clean

help:     ## this list
	@sed -n -E 's/^([a-z]+):[^#]*## *(.*)/  make \1	\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup:    ## .venv with everything pinned by hash, and the project in it
	@$(INSTALLER) requirements/install.py

run: setup    ## set up and start the example Tasks API (HOST, PORT)
	@HOST='$(HOST)' PORT='$(PORT)' exec $(BIN)/garrison serve examples.tasks.app:app --host '$(HOST)' --port '$(PORT)'

# Tests marked `alone` measure time or load the machine: they run after the others, one by one.
test: setup    ## set up and run every test (ARGS go to pytest)
	@$(PYTEST) -n auto --maxprocesses 8 --dist worksteal -m 'not alone' $(ARGS); together=$$?; \
	if [ $$together -gt 1 ] && [ $$together -ne 5 ]; then exit $$together; fi; \
	$(PYTEST) -m alone $(ARGS); alone=$$?; \
	if [ $$alone -eq 5 ]; then exit $$together; fi; \
	if [ $$together -eq 5 ]; then exit $$alone; fi; \
	exit $$(( together > alone ? together : alone ))

check: setup    ## format, lint, types, imports, then every test
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

soak: setup    ## the long figures: 1,000 kills, 10,000 timed pairs, 2,000 refresh stories, 1,000 revocations, 60 s of rotations (45 minutes)
	@NODES_S='$(or $(NODES_S),60)' FAULT_N='$(or $(FAULT_N),1000)' TIMING_N='$(or $(TIMING_N),10000)' \
	    REFRESH_N='$(or $(REFRESH_N),2000)' REVOKE_N='$(or $(REVOKE_N),1000)' ROTATE_S='$(or $(ROTATE_S),60)' KIDS_N='$(or $(KIDS_N),10000)' \
	    $(PYTEST) -s tests/fault tests/process/test_timing.py tests/process/test_isolation.py \
	    tests/identity/test_refresh.py tests/process/test_revocation.py tests/process/test_rotation.py \
	    tests/process/test_issuer_faults.py tests/deploy/test_nodes_that_fail.py tests/deploy/test_revocation_over_nodes.py $(ARGS)

bench: setup    ## requests a second, bare and guarded (ARGS go to bench/run.py)
	@$(BIN)/python bench/run.py $(ARGS)

system:    ## Debian packages of the full test run (root or sudo)
	@sh requirements/system.sh

lock: setup    ## pin anew what pyproject.toml asks for; UPGRADE=--upgrade takes the newest
	$(LOCK) $(UPGRADE) requirements/uv.in -o requirements/uv.txt
	$(LOCK) $(UPGRADE) pyproject.toml --group dev -o requirements/dev.txt
	$(LOCK) $(UPGRADE) pyproject.toml --all-extras -c requirements/dev.txt -o requirements/run.txt
	$(LOCK) $(UPGRADE) pyproject.toml requirements/example.in --all-extras -c requirements/dev.txt -o requirements/example.txt
	$(LOCK) $(UPGRADE) requirements/build.in -c requirements/dev.txt -o requirements/build.txt

clean:    ## remove .venv and caches; var/, where the data is, stays
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache .schemathesis dist build
	@find src tests examples bench requirements -name __pycache__ -type d -prune -exec rm -rf {} +
