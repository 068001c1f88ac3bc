# Each target makes the virtual environment it needs; nothing else has to be installed
# but Python 3.10 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint docs bench soak clean

# The stamp is younger than the files that say what to install.
$(VENV)/installed: setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or later is needed")'
	@echo "Installing into $(VENV): about 3 GB, some minutes, once. pip is silent meanwhile."
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what lint and tests need, once."
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	@echo "Installing what the documentation needs, once."
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# Index packaged photos, query them, write demo-output/demo.html.
demo: $(VENV)/installed
	@echo "Indexing packaged photos and querying them; the results go to demo-output."
	$(BIN)/delg demo --out demo-output

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tests start many processes; what these import is compiled once, even where Python may not.
# A process that dies ends the run as a failure: one started in its place is never given tests when
# those left are few, and the run would wait for ever.
test: lint
	$(BIN)/python -m compileall -q delg index eval tests
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m pytest -n 2 --max-worker-restart=0

# The documentation as a website in site/.
docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

# How long the stages take on this machine, next to the reference implementation;
# `delg eval speed --baseline` takes longer and measures more.
bench: $(VENV)/installed
	$(BIN)/delg eval speed --quick --baseline

# Reliability: kills, full disks, damaged and hostile files, races, attacks on the server; each
# stage for SECONDS.
SECONDS ?= 300
soak: $(VENV)/installed-dev
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python tests/soak/run.py --seconds $(SECONDS)

clean:
	rm -rf $(VENV) demo-output site build dist *.egg-info
