# Two commands: `make demo` shows it at work, `make test` checks it. Both make .venv by themselves.
#
#   PYTHON=...       interpreter of .venv, 3.10 to 3.13; the first suitable one when not given
#   TORCH=...        what pip installs as torch for the tests; the demo needs none
#   TORCH_INDEX=...  package index for torch alone, such as PyTorch's CPU wheel index, where the
#                    ordinary one would bring CUDA libraries along
#   ARGS=...         further arguments of `efficient-matcher demo` or of pytest

SUITABLE := import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.10,\
            $(shell $(name) -c '$(SUITABLE)' 2>/dev/null && echo $(name))))
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
ARGS ?=

VENV := .venv
LOG := $(VENV)/pip.log
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PACKAGING := setup.py setup.cfg pyproject.toml $(wildcard efficient_matcher/core/kernels/*.[ch])

# One clear line instead of a page of pip; the page is kept in the log.
PIP_FAILED := { reason=$$(grep -m 1 ERROR $(LOG) || tail -n 1 $(LOG)); \
                echo "make: pip failed: $$reason (all of it: $(LOG))" >&2; exit 1; }

.PHONY: help demo test
.DELETE_ON_ERROR:

help:
	@echo "make demo   a camera over real photographs: matches, homographies, accuracy, speed; into demo-out/"
	@echo "make test   the test suite"

demo: $(VENV)/.demo
	@$(VENV)/bin/efficient-matcher demo --out demo-out --overwrite $(ARGS)

# Plugins of a sourced ROS installation are not loaded: they need packages that .venv does not have.
test: $(VENV)/.test
	@PYTEST_DISABLE_PLUGIN_AUTOLOAD=1 $(VENV)/bin/python -m pytest -q $(ARGS)

$(VENV)/.made:
	@$(PYTHON) -c '$(SUITABLE)' 2>/dev/null || \
		{ echo "make: Python 3.10 to 3.13 is needed; name one as in: make demo PYTHON=/usr/bin/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null 2>&1 || \
		{ echo "make: $(PYTHON) cannot make a virtual environment; on Debian, Ubuntu: apt install python3-venv" >&2; \
		  exit 1; }
	@touch $@

$(VENV)/.demo: $(VENV)/.made $(PACKAGING)
	@echo "installing into $(VENV) ..."
	@$(PIP) -e '.[demo]' >$(LOG) 2>&1 || $(PIP_FAILED)
	@touch $@

# torch first and by itself: only then can it come from another index than all the rest.
$(VENV)/.test: $(VENV)/.made $(PACKAGING)
	@echo "installing into $(VENV) ..."
	@$(PIP) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') '$(TORCH)' >$(LOG) 2>&1 || $(PIP_FAILED)
	@$(PIP) -e '.[dev]' >$(LOG) 2>&1 || $(PIP_FAILED)
	@touch $(VENV)/.demo $@
