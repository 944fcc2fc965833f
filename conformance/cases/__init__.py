"""The cases, by what they drive the bridge with; `conformance.runner.MODULES` is their order."""
