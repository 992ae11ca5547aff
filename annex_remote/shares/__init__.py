"""The share format, version 1: sealing, erasure coding, byte layout, signatures (docs/format.md)."""
