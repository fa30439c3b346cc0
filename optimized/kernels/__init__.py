"""Device code, launches and launch settings of the Triton operations, which are one module each beside this folder."""
