# Every target creates the set-up that it needs: a virtual environment with the locked packages.
# PYTHON=python3.12 make demo   uses that interpreter (3.11 to 3.14); otherwise the best one found.

PYTHON ?=
PYTHONS := python3 python3.13 python3.12 python3.11 python3.14
ANY_PYTHON = $(or $(PYTHON),$(shell for p in $(PYTHONS); do command -v $$p && break; done),python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet --no-input install

# Where it is set, every process compiles all of d2v again: half a second of each start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-full test fuzz lint format data dag docs dist report lock bench gpu-wheels smoke named
.DELETE_ON_ERROR:

help:
	@echo "make demo       run the whole method in miniature and print its three tables (11 minutes, or more on older processors)"
	@echo "make demo-full  run the same with more seeds and tuned settings (51 minutes)"
	@echo "make test       run all tests"
	@echo "make fuzz       damage inputs at random, each kind for a minute (D2V_FUZZ_SECONDS)"
	@echo "make smoke      run a quick test of every part (under half a minute)"
	@echo "make data       fetch and prepare the miniature data sets"
	@echo "make lint       check with ruff, mypy and snakefmt, and check the deps of the data stages"
	@echo "make format     format files with ruff and snakefmt"
	@echo "make docs       build the documentation site in site/"
	@echo "make dist       build the source archive and the wheel in dist/"
	@echo "make lock       write requirements.lock from pyproject.toml"
	@echo "make dag        print the graph of the workflow's rules as Mermaid text"
	@echo "make bench      compare speed and memory with a peer (10 minutes); BASELINE=file shows slowdowns"
	@echo "make gpu-wheels fetch packages that benchmarks/gpu.sh needs on a machine without network"
	@echo "make report     write results/report.html, tables with their provenance (after make demo)"

demo: $(READY)
	@$(BIN)/d2v reproduce --params params/mini.yaml

demo-full: $(READY)
	@$(BIN)/d2v reproduce --params params/mini-full.yaml

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile

fuzz: $(READY)
	@D2V_FUZZ_SECONDS=$${D2V_FUZZ_SECONDS:-60} $(BIN)/python -m pytest -m fuzz --numprocesses auto --dist load

smoke: $(READY)
	@$(BIN)/d2v --help > /dev/null
	@$(BIN)/d2v check --params params/mini.yaml
	@$(BIN)/snakemake --rulegraph mermaid-js > /dev/null
	@$(BIN)/python -m pytest -m smoke $(addprefix tests/,cli/test_smoke.py evaluation/test_ctc.py evaluation/test_lexicon_search.py)

data: $(READY)
	@$(BIN)/d2v data

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/snakefmt --check Snakefile workflow
	@$(BIN)/python tools/dvc_deps.py --check

format: $(READY)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

docs: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "site/index.html"

dist: $(READY)
	@$(BIN)/python -m build --no-isolation

dag: $(READY)
	@$(BIN)/snakemake --rulegraph mermaid-js

report: $(READY)
	@$(BIN)/snakemake --report results/report.html

bench: $(READY)
	@$(BIN)/python benchmarks/bench.py $(if $(BASELINE),--baseline $(BASELINE)) $(BENCH)

gpu-wheels: $(READY)
	@$(BIN)/python benchmarks/wheels.py

# Does not depend on $(READY), which would first install a changed pyproject.toml with the old lock.
lock:
	@test -x $(BIN)/python || { $(ANY_PYTHON) -m venv $(VENV) && touch $(VENV)/.made-by-d2v; }
	@$(PIP) "uv>=0.5"
	@$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --custom-compile-command "make lock" --quiet \
	  --output-file requirements.lock

# An interpreter named in PYTHON is compared with that of the environment.
$(READY): requirements.lock pyproject.toml tools/venv.py $(if $(PYTHON),named)
	@$(ANY_PYTHON) tools/venv.py $(VENV) $(PYTHON)
