# `make` lists the targets. Each one makes .venv first when it is missing or out of date.

PYTHON ?= $(shell for p in python3.11 python3; do $$p -c "" >/dev/null 2>&1 && echo $$p && break; done)
TRAIN_ARGS ?= --scenario HalfCheetah-2x3 --methods ps lora lora-joint --total-env-steps 400000 --phase-switch 0.5 \
	--storage-path results/runs --name make_train --resume

JOBS ?= $(shell echo $$(( $$(nproc 2>/dev/null || echo 2) + 1 )))

INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help train test test-cluster lint docs bench results

# One thread per process: env runners and learners run side by side and would otherwise compete for the cores.
train test test-cluster docs bench results: export OMP_NUM_THREADS = 1

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1 - \2/p' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "Variables: PYTHON (3.11 or newer, used to make .venv), TRAIN_ARGS (options of tune_configs/mamujoco.py)," \
		"JOBS (processes that run tests; one more than cores, as tests also wait)."

train: $(INSTALLED) ## train on multi-agent MuJoCo with TRAIN_ARGS
	.venv/bin/python tune_configs/mamujoco.py $(TRAIN_ARGS)

test: $(INSTALLED) ## run the tests, but those of test-cluster
	.venv/bin/python -m pytest -m "not cluster" --numprocesses $(JOBS) --dist worksteal

test-cluster: $(INSTALLED) ## run the tests that start clusters on this machine and kill parts of them
	tests/install_tools.sh
	.venv/bin/python -m pytest -m cluster tests/cluster

lint: $(INSTALLED) ## check style, formatting and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: $(INSTALLED) ## build the documentation in site/, and fail for a link that leads nowhere
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

bench: $(INSTALLED) ## measure sampling, the learning step and acting
	.venv/bin/python benchmarks/sampling.py
	.venv/bin/python benchmarks/sampling_smax.py
	.venv/bin/python benchmarks/learning_step.py
	.venv/bin/python benchmarks/acting.py

results: $(INSTALLED) ## draw figures and tables of the results anew from the recorded curves
	.venv/bin/python benchmarks/results.py

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	@[ -x .venv/bin/pip ] || { \
		[ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "No Python 3.11 or newer found (tried: $(or $(PYTHON),python3.11 python3))." \
				"Name one, for example: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
			exit 1; \
		}; \
		echo "Making .venv with $(PYTHON)"; \
		$(PYTHON) -m venv .venv; \
	}
	@echo "Installing the package and its pinned dependencies into .venv: a few minutes, more on a slow connection (torch is large)."
	.venv/bin/pip install -e ".[dev]" -c constraints.txt
	@touch $@
