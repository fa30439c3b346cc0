"""The campaign on a GPU from a plain checkout: `python -m harness.gpu --out DIR`, which `nox -s gpu` calls as well."""
