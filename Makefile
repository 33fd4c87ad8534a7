# One-liners. Everything they do is a plain command of app.py or of a tool in .venv.
PY := $(if $(wildcard .venv/bin/python),.venv/bin/python,python3)

.PHONY: run test lint types format bench map ci
run:        ; python3 app.py
test:       ; python3 app.py test
lint:       ; $(PY) -m ruff check . && $(PY) -m ruff format --check .
types:      ; $(PY) -m mypy
format:     ; $(PY) -m ruff check --fix . && $(PY) -m ruff format .
bench:      ; $(PY) -m tests.benchmarks
map:        ; $(PY) -m tests.map
ci:         ; .ci/run
