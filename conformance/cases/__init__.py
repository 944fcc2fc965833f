"""The cases, by what they drive the bridge with. Importing this package registers them all."""

from conformance.cases import clients, faults, media, signalling, strangers, torture, traffic

__all__ = ["clients", "faults", "media", "signalling", "strangers", "torture", "traffic"]
