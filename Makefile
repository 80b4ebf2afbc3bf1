VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: demo test check docs clean

demo: $(VENV)/installed  ## a first run on real images: fit, test and export on handwritten digits, and decide about three images
	$(BIN)/python train.py fit --config configs/digits.yaml
	$(BIN)/python train.py test --config configs/digits.yaml
	$(BIN)/python train.py export --config configs/digits.yaml --detector fusion --calibration_share 0.5 \
	    --output runs/digits/deployed --overwrite
	$(BIN)/python -m tools.demo_images runs/digits/images
	$(BIN)/python train.py predict --detector runs/digits/deployed --format table runs/digits/images

test: $(VENV)/installed  ## the whole test suite; in order, so that what takes minutes does not come last
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/installed  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tools.docs methods --check

docs: $(VENV)/installed  ## the documentation site, build/site/docs/site/index.html; a warning is an error
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/python -m sphinx --fail-on-warning --keep-going -q -c docs/site -b html . build/site

$(VENV)/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.txt --group dev
	touch $@

clean:
	rm -rf $(VENV) runs build
