"""Each operation once more, as a legal fast kernel does it, with a named rounding point wherever it may round."""
