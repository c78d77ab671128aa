# Few targets, named after the intention. Everything happens in .venv; nothing is installed elsewhere.
VENV ?= .venv
# Made with $(PYTHON) where that is given, else with the fastest build of python3's own version (tools/interpreter.py).
PYTHON ?=
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.PHONY: demo up test install clean help

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

demo: $(VENV)/.run   ## a story that goes on when its narrator is killed (ARGS=--json for a report)
	@$(BIN)/understudy demo $(ARGS)

up: $(VENV)/.run     ## start nats-server and the actors of topology.yaml
	@$(BIN)/understudy up $(ARGS)

test: $(VENV)/.dev   ## everything CI runs, with the time of each part
	@$(BIN)/python -m understudy.tools.gate $(ARGS)

install: $(VENV)/.run ## the virtual environment with all that `understudy up` needs

clean:           ## forget the virtual environment and the state
	rm -rf $(VENV) state

# torch first and alone: a wider range elsewhere must not pull another build (see README, "What is downloaded").
$(VENV)/.run: pyproject.toml
	@test -x $(BIN)/python || { python=$(or $(PYTHON),$$(python3 tools/interpreter.py)) && $$python -m venv $(VENV); }
	@echo "installing (the first time this downloads; see README)" >&2
	@$(PIP) torch==2.13.0
	@$(PIP) --editable '.[serve,local]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run pyproject.toml
	@$(PIP) --editable '.[serve,local,graph,analysis,dev]'
	@touch $@
