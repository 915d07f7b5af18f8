# Each target needs nothing but `setup`, which the first of them runs; see .ci/setup for PYTHON= and TORCH=.
BIN := .venv/bin
# Where the demo works, the videos it takes instead of synthetic ones, and further options of its training.
DEMO := demo
VIDEOS :=
TRAIN :=

.PHONY: setup demo test test-slow lint docs format wheels cuda aarch64 lanes bench gpu-check clean

setup:
	@.ci/setup

# idle OpenMP threads would spin on a core that another process could use
demo: export OMP_WAIT_POLICY = PASSIVE
demo: setup
ifeq ($(VIDEOS),)
	$(BIN)/vidseg synth "$(DEMO)/synth"
	$(BIN)/dataset2database "$(DEMO)/synth/videos" "$(DEMO)/data"
	$(BIN)/vidseg labels apply "$(DEMO)/data" "$(DEMO)/synth/labels.csv"
else
	@# status 1: some videos failed, each is named above; the others will do
	$(BIN)/dataset2database "$(VIDEOS)" "$(DEMO)/data" || [ $$? -eq 1 ]
endif
	$(BIN)/vidseg plot contact "$(DEMO)/data" --out "$(DEMO)/contact.png"
	$(BIN)/python train/train_synth.py "$(DEMO)/data" --out "$(DEMO)/run" --overwrite $(TRAIN)
	$(BIN)/vidseg test "$(DEMO)/run"
	$(BIN)/vidseg plot curves "$(DEMO)/run"
	$(BIN)/vidseg plot confusion "$(DEMO)/run"
	@echo "pictures: $(DEMO)/contact.png $(DEMO)/run/*.png; log: $(DEMO)/run/train.log"

# on all cores; a file's tests run in one process
test: export OMP_NUM_THREADS = 1
test: setup
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# the tests that take long, which CI runs too
test-slow: export OMP_NUM_THREADS = 1
test-slow: setup
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow

lint: setup
	.ci/lint

# the documentation site, in build/docs/site
docs: setup
	$(BIN)/python docs/site/build.py

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' | xargs $(BIN)/clang-format -i

# source archive and wheels for x86-64 and 64-bit ARM into dist/
wheels: setup
	.ci/wheels dist

# CUDA operators against the torch versions that are supported; needs nvcc, no GPU
cuda: setup
	.ci/cuda

# kernels for 64-bit ARM, cross-compiled and run in QEMU
aarch64:
	.ci/aarch64

# the lowest and the newest versions of all dependencies, each in a venv of its own
lanes:
	.ci/lanes

bench: setup
	$(BIN)/python benchmarks/convert_speed.py
	$(BIN)/python benchmarks/catalog_speed.py
	$(BIN)/python benchmarks/loader_speed.py
	$(BIN)/python benchmarks/loader_memory.py
	$(BIN)/python benchmarks/ops_speed.py
	$(BIN)/python benchmarks/model_speed.py
	$(BIN)/python benchmarks/segmental_speed.py
	$(BIN)/python benchmarks/stream_memory.py
	$(BIN)/python benchmarks/learning.py
	$(BIN)/python benchmarks/segmentation.py

# On a machine with a GPU, torch and nvcc, without network: see .ci/gpu-check. It uses the python3 there, not .venv.
gpu-check:
	python3 .ci/gpu-check

clean:
	rm -rf build dist *.egg-info vidseg/*/*.so $(DEMO)
