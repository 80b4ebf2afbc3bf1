VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
REQUIREMENTS := requirements.txt $(wildcard requirements/*.txt)

.PHONY: demo test oldest check docs linkcheck clean

demo: $(VENV)/installed  ## a first run on real images: fit, test and export on handwritten digits, and decide about three images
	$(BIN)/python train.py fit --config configs/digits.yaml
	$(BIN)/python train.py test --config configs/digits.yaml
	$(BIN)/python train.py export --config configs/digits.yaml --detector fusion --calibration_share 0.5 \
	    --output runs/digits/deployed --overwrite
	$(BIN)/python -m tools.demo_images runs/digits/images
	$(BIN)/python train.py predict --detector runs/digits/deployed --format table runs/digits/images

test: $(VENV)/installed  ## the whole test suite; in order, so that what takes minutes does not come last
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

SHORT := tests/test_private.py tests/test_suite.py tests/engine tests/detectors/test_contract.py tests/metrics tests/ops \
    tests/commands/test_main_job.py tests/commands/test_bad_input.py

oldest: .oldest-venv/installed  ## a short part of the suite on the oldest versions that requirements.txt allows; minutes to install
	OMP_NUM_THREADS=1 WANDB_MODE=offline HF_HUB_OFFLINE=1 .oldest-venv/bin/python -m pytest -n 2 --dist loadfile $(SHORT)

.oldest-venv/installed: $(REQUIREMENTS)
	$(PYTHON) -m venv .oldest-venv
	sed -E 's/ *#.*//; s/>=([^,]*).*/==\1/' requirements/core.txt requirements/digits.txt requirements/sweep.txt > .oldest-venv/oldest.txt
	.oldest-venv/bin/python -m pip install --quiet -r .oldest-venv/oldest.txt pytest pytest-xdist pytest-timeout hypothesis
	touch $@

check: $(VENV)/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.docs methods --check

docs: $(VENV)/docs  ## the documentation site, build/site/index.html; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -j auto -c docs/site -b html . build/site

linkcheck: $(VENV)/docs  ## asks the servers of all links on the site's pages; needs the network
	$(BIN)/python -m sphinx -q -c docs/site -b linkcheck . build/linkcheck

$(VENV)/docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --group docs
	touch $@

$(VENV)/installed: $(REQUIREMENTS) pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt -r requirements/onnx.txt --group dev
	touch $@

clean:
	rm -rf $(VENV) runs build
