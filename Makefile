# Vision Transformers, Piece by Piece. `make` lists what there is.
PYTHON ?= python3
CH ?=
NAME ?=
URL ?=

bin := .venv/bin
stamp := .venv/.installed
named := $(if $(filter file,$(origin PYTHON)),,$(PYTHON))
sound := $(if $(wildcard $(stamp)),$(shell $(bin)/python tools/sound.py $(named) 2> /dev/null))
pip := $(bin)/python -m pip install --disable-pip-version-check -qq -c constraints.txt
uv := $(bin)/python -m uv pip install -q --python $(bin)/python -c constraints.txt
chapters := $(bin)/python tools/chapters.py
pytest := $(bin)/python -m pytest --numprocesses 2 --dist loadgroup
biome := .venv/biome/node_modules/.bin/biome
sources := $(shell find _config.yml _toc.yml book notebooks vitutils -type f \
  -not -path '*/.*' -not -name '*.pyc' 2> /dev/null)

# Where Python may not keep what it has compiled, as in many containers, every process
# compiles PyTorch's thousands of files anew: five seconds each.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help book pdf check test format lab serve chapter execute sync repository bench clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

book: _build/html/index.html  ## build the book as web pages (sets up .venv first)
	@echo "The book: $(CURDIR)/_build/html/index.html (or: make serve)"

_build/html/index.html: $(stamp) $(sources)
	@rm -rf _build
	@$(bin)/jupyter-book build -q -W -n --keep-going . > /dev/null

pdf: _build/html/index.html  ## print the book into one PDF (needs Chromium)
	@$(bin)/python tools/pdf.py

check: $(stamp) style  ## run the checks that take a minute
	@$(pytest) -m "not slow"

test: $(stamp) style  ## run every check; or what some chapters need: CH="03 08"
	@$(pytest) $(if $(CH),--chapters "$(CH)")

.PHONY: style
style: $(stamp)
	@$(bin)/ruff format --check --quiet . || { echo "mend it: make format" >&2; exit 1; }
	@$(bin)/ruff check --quiet . || { echo "what is marked [*], make format mends" >&2; exit 1; }

format: $(stamp)  ## lay out the code, in chapters too, as the checks want it
	@$(bin)/ruff format --quiet .
	@$(bin)/ruff check --quiet --fix .
	@[ ! -x $(biome) ] || $(biome) check --write

lab: $(stamp)  ## open the chapters in JupyterLab
	@$(bin)/jupyter lab --notebook-dir=notebooks

serve: _build/html/index.html  ## show the built book at http://127.0.0.1:8000
	@$(bin)/python -m http.server 8000 --bind 127.0.0.1 --directory _build/html

chapter: $(stamp)  ## write the skeleton of a chapter: NAME=15_title
	@test -n "$(NAME)" || { echo "usage: make chapter NAME=15_title" >&2; exit 2; }
	@$(chapters) new "$(NAME)"

execute: $(stamp)  ## run the chapters again, in place; or some of them: CH="03 08"
	@$(chapters) execute $(CH)

sync: $(stamp)  ## fill the chapters' listings from vitutils
	@$(chapters) sync

repository: $(stamp)  ## write a new repository address everywhere: URL=https://...
	@test -n "$(URL)" || { echo "usage: make repository URL=https://github.com/OWNER/NAME" >&2; exit 2; }
	@$(chapters) repository "$(URL)"

bench: $(stamp)  ## measure vitutils against timm, torchvision and other peers
	@$(pip) -r benchmarks/requirements.txt
	@$(bin)/python benchmarks/throughput.py

clean:  ## remove what was built; .venv stays (rm -r .venv removes that)
	@rm -rf _build .hypothesis .pytest_cache .ruff_cache
	@find notebooks tests tools vitutils book -name __pycache__ -prune -exec rm -r {} +

# A .venv that does not work, or whose set-up was stopped, is made anew, and so is one of
# another Python than PYTHON names; by default it keeps the Python that it has.
.PHONY: anew
anew:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) --version 2>&1) || found="not there"; \
	  echo "The book needs Python 3.11 or newer; $(PYTHON) is $$found." >&2; \
	  echo "Name another one, as in: make PYTHON=python3.12 book" >&2; exit 1; }
	@[ -d .venv ] || rm -f .venv  # a file, or a link that leads nowhere
	@$(PYTHON) -m venv --clear .venv

# Where no index answers, pip itself would speak of conflicting dependencies.
online := $(pip) --dry-run --ignore-installed --no-deps --retries 1 pip > /dev/null 2>&1 || { \
  echo "pip reaches no package index: check the network, or pip's proxy and index-url," \
    "and call make again." >&2; exit 1; }

# Installs once, and again only after a change of what is to be installed. uv takes half
# the processor time that pip takes, and downloads while it unpacks; but it does not read
# pip's settings. pip does the work where these name an index, and where uv fails.
own_index := $(bin)/python -m pip config list | grep -Eq '[.](index-url|no-index)='
$(stamp): requirements.txt constraints.txt pyproject.toml $(if $(sound),,anew)
	@echo "Setting up .venv: this downloads PyTorch and its companions, once."
	@rm -f $(stamp)
	@$(online)
	@$(pip) --upgrade pip  # an old one takes minutes longer to choose versions
	@! $(own_index) && { $(pip) uv && $(uv) -r requirements.txt; } 2> /dev/null || \
	  $(pip) --no-compile -r requirements.txt || { $(online); exit 1; }
	@touch $(stamp)
