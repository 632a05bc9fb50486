# Every target works on a fresh clone: uv makes the environment at its first use.
.PHONY: quickstart test test-slow lint audit check bench format lock docs

quickstart:
	uv run semaug quickstart

test: ## two tests at a time; `uv run pytest PATH` runs a few alone
	uv run pytest -n 2 --dist loadfile

test-slow:
	uv run --group docs --group fuzz pytest -m slow

lint: ## every static check
	uv run ruff format --check .
	uv run ruff check .
	uv run mypy packages/*/src apps/cli/src
	uv run lint-imports
	uv run python tools/lock.py --check
	uv run python tools/cli_reference.py --check

audit: ## known vulnerabilities where their data base can be reached, the bill of materials, the list of licences
	uv run python tools/audit.py
	uv run python tools/licences.py --check
	uv run python tools/sbom.py --check
	uv run python tools/sbom.py

check: lint audit test

bench:
	uv run python tools/bench.py

docs: ## the documentation site, into site/
	uv run --group docs python tools/docs_site.py

format:
	uv run ruff format .
	uv run ruff check --fix .

lock: ## write requirements.lock and the list of licences after a change of dependencies
	uv run python tools/lock.py
	uv run python tools/licences.py
