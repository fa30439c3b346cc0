"""Candidates that judge the judge: healthy ones that must pass, dumb and faulty ones that must not."""
