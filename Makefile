# make setup | demo | test | test-unit | lint | test-lab | test-matrix | molecule | bench | clean
SHELL := /bin/sh
VENV ?= .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DS4_VENV := $(VENV)
# Ansible takes no configuration from a world-writable checkout unless it is named.
export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg

.PHONY: setup demo test test-setup lint types test-unit test-modules test-lab test-matrix molecule bench clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo 'make setup   prepare this machine: system packages, .venv from pinned requirements'
	@echo 'make demo    from bare simulated Macs to an answered prompt'
	@echo 'make test    unit tests, lint, types, lab tests'
	@echo 'make bench   seconds and ssh channels of a converging run, in the lab'
	@echo 'make clean   take the lab down and remove .venv'

setup:
	@scripts/setup

demo: setup
	@python -m ds4fleet.demo

test-setup:
	@scripts/setup --test

test: test-setup lint types test-unit
	@scripts/check matrix-and-molecule
	@scripts/check lab

lint:
	@scripts/check lint

types:
	@scripts/check types

test-unit:
	@scripts/check unit

test-matrix:
	@scripts/check matrix

molecule:
	@scripts/check molecule

test-lab:
	@scripts/check lab

bench: setup
	@bench/converge

clean:
	@if [ -d .lab ]; then fab lab down; fi
	@rm -rf $(VENV) .venv-3.* .mypy_cache .ruff_cache .pytest_cache
