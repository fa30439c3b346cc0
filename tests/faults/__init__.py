"""The catalogue of seeded faults: bugs that really happened, each in a right implementation beside its twin."""
