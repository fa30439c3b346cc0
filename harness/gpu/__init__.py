"""The campaign on a GPU from a plain checkout: ``python -m harness.gpu``, which ``nox -s gpu`` calls as well."""
