# `make table1` and `make test` need python3 (3.11 or newer), make and git; everything else is installed in $(VENV).
PYTHON ?= python3
VENV ?= .venv

export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: help table1 paper report record push pull experiments test lint format readme generate requirements
.DEFAULT_GOAL := help

help: ## list the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

table1: $(VENV)/installed ## results/table1.csv, table1.md and figures, from nothing
	snakemake --cores all results/table1.csv

paper: $(VENV)/installed ## results/paper.html, all studies: forty minutes on two cores
	snakemake --cores all results/paper.html

report: table1 ## report.html: table, figures and captions as one file
	snakemake --report report.html results/table1.csv

record: $(VENV)/installed ## tell DVC which results are finished; Snakemake does so after each run
	python workflow/scripts/record.py

push: record ## send the grid and the experiment to the DVC remote
	dvc push

pull: $(VENV)/installed ## fetch the results that were pushed with this commit
	dvc pull --recursive results workflow $(if $(wildcard dvc.lock),dvc.yaml)

experiments: $(VENV)/installed ## list the changes and numbers of `dvc exp run`
	@dvc exp show --md --only-changed --drop '^(src|experiment)/|^params.yaml$$|^(Created|State|Executor|step|loss|images_per_second)$$'

test: $(VENV)/tested ## all tests
	pytest -n auto --dist loadfile

lint: $(VENV)/installed ## formatting, types, import layers, workflow
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	snakefmt --check Snakefile workflow
	snakemake --lint

format: $(VENV)/installed generate ## format Python and Snakemake files, write the generated ones
	ruff check --fix .
	ruff format .
	snakefmt Snakefile workflow

readme: table1 ## write the pipeline's table and pictures into README.md
	snakemake --cores all results/paper/vct-fig1.csv
	python workflow/scripts/update_readme.py

generate: $(VENV)/installed ## write dvc.yaml, the schema of parameter files and the table of studies
	python -m couplet.plan.dvc > dvc.new && mv dvc.new dvc.yaml
	python -m couplet.config.schema > schema.new && mv schema.new workflow/schemas/params.schema.json
	python workflow/scripts/list_studies.py

# Without Slurm's plugin, which adds a second to every call of Snakemake.
EXTRAS = pipeline s3 lion lmdb dinov2 tensorboard dev

requirements: $(VENV)/installed ## pin the newest versions that fit pyproject.toml
	(echo '# Exact versions of everything `make` installs; made by `make requirements`.'; \
	uv pip compile pyproject.toml $(EXTRAS:%=--extra %) --universal --python-version 3.11 \
		--quiet --no-header --no-annotate) > requirements.new
	mv requirements.new requirements.txt

$(VENV)/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON): version 3.11 or newer is needed; make PYTHON=..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet uv
	VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet --compile-bytecode --requirement requirements.txt
	VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet --no-deps --editable .
	python -m compileall -q src/couplet
	touch $@

$(VENV)/tested: $(VENV)/installed
	VIRTUAL_ENV=$(abspath $(VENV)) uv pip install --quiet --constraint requirements.txt --editable '.[slurm]'
	touch $@
