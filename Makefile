# `make table1` and `make test` need python3 (3.11 or newer), make and git. They use the environment that is
# active if it has couplet and its packages; otherwise everything is installed in .venv, or in VENV=...
PYTHON ?= python3

# For tests; without Slurm's plugin, which adds a second to every call of Snakemake.
comma := ,
space := $(subst ,, )
EXTRAS = pipeline s3 lion lmdb dinov2 tensorboard dev docs

NEEDED = $(if $(filter test test-cluster test-all lint format docs,$(MAKECMDGOALS)),$(EXTRAS) slurm,pipeline)
ifeq ($(origin VENV) $(shell python workflow/scripts/has_packages.py $(NEEDED) 2>/dev/null && echo complete),undefined complete)
INSTALLED :=
TESTED :=
else
VENV ?= .venv
INSTALLED := $(VENV)/installed
TESTED := $(VENV)/tested
export PATH := $(abspath $(VENV))/bin:$(PATH)
endif

.PHONY: help table1 paper report record push pull experiments test test-cluster test-all lint format docs readme generate requirements image sif
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

table1: $(INSTALLED) ## results/index.html and table1.csv, from nothing
	snakemake --cores all results/table1.csv
	@$(if $(INSTALLED),echo "For the commands in this shell: source $(VENV)/bin/activate")

paper: $(INSTALLED) ## results/paper.html, all studies: an hour on two cores
	snakemake --cores all results/paper.html

report: table1 ## report.html: table, figures and captions as one file
	snakemake --report report.html results/table1.csv

record: $(INSTALLED) ## tell DVC which results are finished; Snakemake does so after each run
	python workflow/scripts/record.py

push: record ## send the grid and the experiment to their DVC remotes
	dvc --cd results push
	$(if $(wildcard dvc.lock),dvc push)

pull: $(INSTALLED) ## fetch the results that were pushed with this commit
	dvc --cd results pull
	$(if $(wildcard dvc.lock),dvc pull --allow-missing)

experiments: $(INSTALLED) ## list the changes and Fréchet distances of `dvc exp run`; `dvc exp show` has everything
	@dvc exp show --md --only-changed --drop '^(src|experiment)/|^params.yaml$$|^(Created|State|Executor|step|loss)$$|^kid_'

test: $(TESTED) ## all tests that need no cluster
	pytest -n auto --dist loadfile --ignore tests/cluster

test-cluster: $(TESTED) ## tests on a Slurm of their own: some minutes, as root, with Debian's slurm-wlm and munge
	pytest -rs tests/cluster

test-all: test test-cluster ## all tests

lint: $(TESTED) ## formatting, types, import layers, workflow
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint

format: $(TESTED) generate ## format Python and Snakemake files, write the generated ones
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

docs: $(TESTED) ## site/index.html: the documentation with a search, opens without a server
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

readme: table1 ## write the pipeline's table and pictures into README.md
	snakemake --cores all results/paper/vct-fig1.csv
	python workflow/scripts/update_readme.py

generate: $(INSTALLED) ## write dvc.yaml, the schema of parameter files, published rows, the tables of results and systems
	python -m couplet.plan.dvc > dvc.new && mv dvc.new dvc.yaml
	python -m couplet.config.schema > schema.new && mv schema.new workflow/schemas/params.schema.json
	python -m couplet.reporting.published > published.new && mv published.new src/couplet/reporting/published.json
	python workflow/scripts/list_studies.py

requirements: $(INSTALLED) ## pin the newest versions that fit pyproject.toml
	(echo '# Exact versions of everything `make` installs; made by `make requirements`.'; \
	uv pip compile pyproject.toml $(patsubst %,--extra %,$(EXTRAS) slurm) --universal --python-version 3.11 \
		--quiet --no-header --no-annotate) > requirements.new
	mv requirements.new requirements.txt

ENGINE ?= $(shell command -v podman || command -v docker)

image: ## the container image `couplet`, with podman or docker; BUILD=... are options (docs/containers.md)
	$(ENGINE) build --file Containerfile --tag couplet \
		--label org.opencontainers.image.revision=$(shell git describe --always --dirty --exclude '*') $(BUILD) .

sif: ## couplet.sif, the same for Apptainer and `snakemake --sdm apptainer`
	apptainer build $(BUILD) couplet.sif workflow/envs/couplet.def

ifneq ($(INSTALLED),)
$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON): version 3.11 or newer is needed; make PYTHON=..." >&2; exit 2; }
	@echo "Installing PyTorch and the pipeline's packages in $(VENV): about 6.5 GB, some minutes; only once."
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet uv
	VIRTUAL_ENV="$(abspath $(VENV))" uv pip install --quiet --compile-bytecode --constraint requirements.txt \
		--editable '.[pipeline]'
	python -m compileall -q src/couplet
	touch $@

$(TESTED): $(INSTALLED)
	VIRTUAL_ENV="$(abspath $(VENV))" uv pip install --quiet --compile-bytecode --constraint requirements.txt \
		--editable '.[$(subst $(space),$(comma),$(EXTRAS) slurm)]'
	touch $@
endif
